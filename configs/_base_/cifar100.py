# CIFAR-100: 50000 + 10000 photographs of 32 pixels, as downloaded, at data/cifar100 (see data/README.md).
train_pipeline = [
    dict(type='mmgkd.PadRandomCrop', padding=4),
    dict(type='RandomFlip', prob=0.5),
    dict(type='mmgkd.PackClsInputs'),
]
test_pipeline = [dict(type='mmgkd.PackClsInputs')]
train_dataloader = dict(
    batch_size=64, num_workers=4, persistent_workers=True, drop_last=False,
    collate_fn=dict(type='mmgkd.stack_images'), sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='mmgkd.CIFAR100', data_root='data/cifar100', split='train', pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=200, num_workers=2, persistent_workers=True, drop_last=False,
    collate_fn=dict(type='mmgkd.stack_images'), sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmgkd.CIFAR100', data_root='data/cifar100', split='test', test_mode=True,
                 pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmgkd.Accuracy', topk=(1, 5))
test_evaluator = val_evaluator
model = dict(
    type='mmgkd.Classifier',
    data_preprocessor=dict(
        type='ImgDataPreprocessor', mean=[129.30, 124.11, 112.40], std=[68.21, 65.41, 70.41]),
    head=dict(type='mmgkd.LinearHead', num_classes=100))
