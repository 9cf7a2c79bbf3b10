# VGG-13 with batch norm: 9.5 million weights. HKD's teacher: 74.64 % top-1.
_base_ = ['../_base_/cifar100.py', '../_base_/cifar_schedule.py']

model = dict(backbone=dict(type='mmgkd.CifarVGG', depth=13))
work_dir = 'work_dirs/cifar100_vgg13'
