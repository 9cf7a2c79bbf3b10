# The teacher of gkd_frcnn_r50_voc.py: Faster R-CNN R101 on VOC07+12.
_base_ = 'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))
