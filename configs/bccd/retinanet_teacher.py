# A one-stage teacher on BCCD: base width 32, 24 epochs.
_base_ = ['../_base_/small_retinanet.py', '../_base_/bccd.py', '../_base_/small_schedule.py']

model = dict(bbox_head=dict(num_classes=3))
train_cfg = dict(max_epochs=24)
work_dir = 'work_dirs/bccd_retinanet_teacher'
