# The student of the demo, alone: base width 8.
_base_ = ['../_base_/small_faster_rcnn.py', '../_base_/digits.py', '../_base_/small_schedule.py']

model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64]),
    roi_head=dict(bbox_head=dict(num_classes=10)))
train_cfg = dict(max_epochs=10, val_interval=2)
work_dir = 'work_dirs/digits_student'
