# The teacher of the demo: base width 32.
_base_ = ['../_base_/small_faster_rcnn.py', '../_base_/digits.py', '../_base_/small_schedule.py']

model = dict(roi_head=dict(bbox_head=dict(num_classes=10)))
train_cfg = dict(max_epochs=10, val_interval=2)
work_dir = 'work_dirs/digits_teacher'
