# ShuffleNetV2: 1.4 million weights. Alone 72.63 % top-1 in HKD's table.
_base_ = ['../_base_/cifar100.py', '../_base_/cifar_schedule.py']

model = dict(backbone=dict(type='mmgkd.CifarShuffleNetV2', size=1))
optim_wrapper = dict(optimizer=dict(lr=0.01))
work_dir = 'work_dirs/cifar100_shufflenetv2'
