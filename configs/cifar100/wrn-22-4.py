# WRN-22-4: 4.3 million weights. MHGD's teacher: 77.22 % top-1.
_base_ = ['../_base_/cifar100_mhgd.py', '../_base_/cifar_schedule_100e.py']

model = dict(backbone=dict(type='mmgkd.WideResNet', depth=22, width=4))
work_dir = 'work_dirs/cifar100_wrn-22-4'
