# CIFAR-10: as CIFAR-100, of ten classes, at data/cifar10, in batches of 128.
_base_ = './cifar100.py'

train_dataloader = dict(batch_size=128, dataset=dict(type='mmgkd.CIFAR10', data_root='data/cifar10'))
val_dataloader = dict(dataset=dict(type='mmgkd.CIFAR10', data_root='data/cifar10'))
test_dataloader = dict(dataset=dict(type='mmgkd.CIFAR10', data_root='data/cifar10'))
model = dict(
    data_preprocessor=dict(mean=[125.31, 122.96, 113.86], std=[51.59, 50.85, 51.26]),
    head=dict(num_classes=10))
