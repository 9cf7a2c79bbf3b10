# BCCD: 205 + 87 microscope photographs of blood cells, in VOC layout at data/bccd (see data/README.md).
data_root = 'data/bccd/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'))
scale = (256, 192)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8, num_workers=1, persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VOCDataset', data_root=data_root, metainfo=metainfo, ann_file='ImageSets/Main/train.txt',
        data_prefix=dict(sub_data_root=''), filter_cfg=dict(filter_empty_gt=True, bbox_min_size=1),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8, num_workers=1, persistent_workers=True, drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VOCDataset', data_root=data_root, metainfo=metainfo, ann_file='ImageSets/Main/val.txt',
        data_prefix=dict(sub_data_root=''), test_mode=True, pipeline=test_pipeline))
test_dataloader = val_dataloader
# the mean over IoU 0.5 to 0.95, as COCO does it
val_evaluator = dict(
    type='VOCMetric', metric='mAP', eval_mode='area',
    iou_thrs=[0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95])
test_evaluator = val_evaluator
