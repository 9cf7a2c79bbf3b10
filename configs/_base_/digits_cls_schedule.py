# 30 epochs with a cosine: a minute or less on one core.
_base_ = './cls_runtime.py'

train_cfg = dict(max_epochs=30, val_interval=5)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, eta_min_ratio=0.001, convert_to_iter_based=True),  # to the last epoch
]
auto_scale_lr = dict(enable=False, base_batch_size=32)
default_hooks = dict(logger=dict(interval=25))
