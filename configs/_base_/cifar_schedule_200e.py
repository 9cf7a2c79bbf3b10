# The schedule of geometric graph distillation (Lassance et al.): 200 epochs.
_base_ = './cls_runtime.py'

train_cfg = dict(max_epochs=200)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[60, 120, 160], gamma=0.2)
auto_scale_lr = dict(enable=False, base_batch_size=128)
