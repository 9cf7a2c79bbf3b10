# The teacher on the digits: ResNet-20, 270 thousand weights.
_base_ = ['../_base_/digits_cls.py', '../_base_/digits_cls_schedule.py']

model = dict(backbone=dict(type='mmgkd.CifarResNet', depth=20))
work_dir = 'work_dirs/digits_cls_teacher'
