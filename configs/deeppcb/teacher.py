# The teacher on DeepPCB: base width 32, 24 epochs.
_base_ = ['../_base_/small_faster_rcnn.py', '../_base_/deeppcb.py', '../_base_/small_schedule.py']

model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))
train_cfg = dict(max_epochs=24)
work_dir = 'work_dirs/deeppcb_teacher'
