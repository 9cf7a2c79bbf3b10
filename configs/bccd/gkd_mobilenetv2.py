# GKD on BCCD: ResNet-18 of base width 32 teaches a MobileNetV2 of a quarter of its width.
_base_ = './gkd.py'

model = dict(student=dict(
    backbone=dict(
        _delete_=True, type='MobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 6),
        norm_cfg=dict(type='BN', requires_grad=True)),
    neck=dict(in_channels=[8, 8, 24, 80])))
work_dir = 'work_dirs/bccd_gkd_mobilenetv2'
