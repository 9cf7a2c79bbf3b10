# GKD on BCCD with the optimiser and the schedule of mmdet's detectors on COCO (schedule_1x), at the rate for 8 images.
_base_ = '../bccd/gkd.py'

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001))
work_dir = 'work_dirs/study_bccd_sgd'
