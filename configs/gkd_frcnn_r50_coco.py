# GKD on COCO: Faster R-CNN R101 (2x, 39.8 mAP) teaches Faster R-CNN R50 (1x).
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', './_base_/gkd.py']

model = dict(
    _delete_=True, type='Distiller', student=_base_.model,
    teacher=dict(
        config='mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py',
        checkpoint='https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r101_fpn_2x_coco/'
                   'faster_rcnn_r101_fpn_2x_coco_bbox_mAP-0.398_20200504_210455-1d2dac9c.pth'),
    distill_losses=_base_.distill_losses, inherit='neck+head')
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # as where the weights were chosen
