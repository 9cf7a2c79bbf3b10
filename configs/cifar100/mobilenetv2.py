# MobileNetV2 of half the width: 0.8 million weights. Alone 65.33 % top-1 in HKD's table.
_base_ = ['../_base_/cifar100.py', '../_base_/cifar_schedule.py']

model = dict(backbone=dict(type='mmgkd.CifarMobileNetV2', width=0.5))
optim_wrapper = dict(optimizer=dict(lr=0.01))
work_dir = 'work_dirs/cifar100_mobilenetv2'
