# A RetinaNet for small images and small machines: ResNet-18 and FPN of 64 channels, trained from scratch.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, start_level=0, num_outs=5),
    bbox_head=dict(
        in_channels=64, feat_channels=64, stacked_convs=2,
        anchor_generator=dict(strides=[4, 8, 16, 32, 64])),
    test_cfg=dict(nms_pre=300))
