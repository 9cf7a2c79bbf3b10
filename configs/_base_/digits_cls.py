# The digits of scikit-learn, one in each image of 20 pixels: 800 to train on, 997 to test. No files are needed.
train_pipeline = [
    dict(type='mmgkd.PadRandomCrop', padding=2, pad_mode='reflect'),
    dict(type='mmgkd.PackClsInputs'),
]
test_pipeline = [dict(type='mmgkd.PackClsInputs')]
train_dataloader = dict(
    batch_size=32, num_workers=0, drop_last=True,
    collate_fn=dict(type='mmgkd.stack_images'), sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='mmgkd.DigitsImages', split='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=200, num_workers=0, drop_last=False,
    collate_fn=dict(type='mmgkd.stack_images'), sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmgkd.DigitsImages', split='test', test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmgkd.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
model = dict(
    type='mmgkd.Classifier',
    data_preprocessor=dict(type='ImgDataPreprocessor', mean=[60.] * 3, std=[30.] * 3),
    head=dict(type='mmgkd.LinearHead', num_classes=10))
