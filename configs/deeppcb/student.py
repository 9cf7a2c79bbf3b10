# The student on DeepPCB, alone: base width 8, 12 epochs.
_base_ = ['../_base_/small_faster_rcnn.py', '../_base_/deeppcb.py', '../_base_/small_schedule.py']

model = dict(
    backbone=dict(base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64]),
    roi_head=dict(bbox_head=dict(num_classes=6)))
work_dir = 'work_dirs/deeppcb_student'
