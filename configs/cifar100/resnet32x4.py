# ResNet32x4: 7.4 million weights. HKD's teacher: 79.42 % top-1.
_base_ = ['../_base_/cifar100.py', '../_base_/cifar_schedule.py']

model = dict(backbone=dict(type='mmgkd.CifarResNet', depth=32, width=4))
work_dir = 'work_dirs/cifar100_resnet32x4'
