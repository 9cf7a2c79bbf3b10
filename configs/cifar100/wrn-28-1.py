# The teacher of Lassance et al. on CIFAR-100, which they call WRN-28-1. It has four blocks per stage, activated after
# the addition, which makes it a ResNet-26 by the count of CifarResNet.
_base_ = ['../_base_/cifar100.py', '../_base_/cifar_schedule_200e.py']

model = dict(backbone=dict(type='mmgkd.CifarResNet', depth=26))
train_dataloader = dict(batch_size=128)
work_dir = 'work_dirs/cifar100_wrn-28-1'
