# ResNet8x4: 1.2 million weights. Alone 72.79 % top-1 in HKD's table.
_base_ = ['../_base_/cifar100.py', '../_base_/cifar_schedule.py']

model = dict(backbone=dict(type='mmgkd.CifarResNet', depth=8, width=4))
work_dir = 'work_dirs/cifar100_resnet8x4'
