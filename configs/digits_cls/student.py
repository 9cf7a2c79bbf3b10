# The student on the digits, alone: ResNet-8 of half the width, 20 thousand weights.
_base_ = ['../_base_/digits_cls.py', '../_base_/digits_cls_schedule.py']

model = dict(backbone=dict(type='mmgkd.CifarResNet', depth=8, width=0.5))
work_dir = 'work_dirs/digits_cls_student'
