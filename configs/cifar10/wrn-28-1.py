# The teacher of Lassance et al. on CIFAR-10, which they call WRN-28-1. It has four blocks per stage, activated after
# the addition, which makes it a ResNet-26 by the count of CifarResNet.
_base_ = ['../_base_/cifar10.py', '../_base_/cifar_schedule_200e.py']

model = dict(backbone=dict(type='mmgkd.CifarResNet', depth=26))
work_dir = 'work_dirs/cifar10_wrn-28-1'
