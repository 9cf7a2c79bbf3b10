# The student of Lassance et al. on CIFAR-10, alone, which they call WRN-28-0.5: see wrn-28-1.py.
_base_ = ['../_base_/cifar10.py', '../_base_/cifar_schedule_200e.py']

model = dict(backbone=dict(type='mmgkd.CifarResNet', depth=26, width=0.5))
work_dir = 'work_dirs/cifar10_wrn-28-half'
