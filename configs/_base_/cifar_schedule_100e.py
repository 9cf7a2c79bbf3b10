# The schedule of MHGD's students: 100 epochs.
_base_ = './cls_runtime.py'

train_cfg = dict(max_epochs=100)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60, 80], gamma=0.1)
auto_scale_lr = dict(enable=False, base_batch_size=128)
