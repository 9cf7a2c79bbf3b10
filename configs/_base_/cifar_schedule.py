# The schedule of CRD's benchmark, which HKD and most others use: 240 epochs. MobileNetV2 and ShuffleNetV2 take lr=0.01.
_base_ = './cls_runtime.py'

train_cfg = dict(max_epochs=240)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1)
auto_scale_lr = dict(enable=False, base_batch_size=64)
