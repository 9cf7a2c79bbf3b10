# GKD on Pascal VOC07+12: Faster R-CNN R101 teaches R50. Train the teacher first: configs/voc/faster-rcnn_r101_voc.py
_base_ = ['mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', './_base_/gkd.py']

model = dict(
    _delete_=True, type='Distiller', student=_base_.model,
    teacher=dict(
        config='{{ fileDirname }}/voc/faster-rcnn_r101_voc.py',
        checkpoint='work_dirs/faster-rcnn_r101_voc/epoch_4.pth'),
    distill_losses=_base_.distill_losses, inherit='neck+head')
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))  # as where the weights were chosen
