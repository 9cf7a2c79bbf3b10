# WRN-10-4: 1.2 million weights. Alone 71.62 % top-1 in MHGD's table.
_base_ = ['../_base_/cifar100_mhgd.py', '../_base_/cifar_schedule_100e.py']

model = dict(backbone=dict(type='mmgkd.WideResNet', depth=10, width=4))
work_dir = 'work_dirs/cifar100_wrn-10-4'
