# GKD on DeepPCB: RetinaNet of base width 32 teaches RetinaNet of base width 8.
_base_ = ['./retinanet_teacher.py', '../_base_/gkd.py']

train_cfg = dict(max_epochs=12)
model = dict(
    _delete_=True,
    type='Distiller',
    student=dict(
        config='{{ fileDirname }}/retinanet_teacher.py',
        overrides=dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))),
    teacher=dict(
        config='{{ fileDirname }}/retinanet_teacher.py', checkpoint='work_dirs/deeppcb_retinanet_teacher/epoch_24.pth'),
    distill_losses=_base_.distill_losses,
    inherit='neck+head')
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
work_dir = 'work_dirs/deeppcb_gkd_retinanet'
