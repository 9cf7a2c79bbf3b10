# What MMEngine does beside training a classifier.
default_scope = 'mmdet'
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100), checkpoint=dict(type='CheckpointHook', interval=10, max_keep_ckpts=1))
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=240, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
