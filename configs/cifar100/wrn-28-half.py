# The student of Lassance et al. on CIFAR-100, alone, which they call WRN-28-0.5: see wrn-28-1.py.
_base_ = ['../_base_/cifar100.py', '../_base_/cifar_schedule_200e.py']

model = dict(backbone=dict(type='mmgkd.CifarResNet', depth=26, width=0.5))
train_dataloader = dict(batch_size=128)
work_dir = 'work_dirs/cifar100_wrn-28-half'
