# GKD on the digits: ResNet-20 teaches ResNet-8 of half the width.
_base_ = ['./student.py', '../_base_/classification/gkd.py']

model = dict(
    _delete_=True,
    type='Distiller',
    student=_base_.model,
    teacher=dict(config='{{ fileDirname }}/teacher.py', checkpoint='work_dirs/digits_cls_teacher/epoch_30.pth'),
    distill_losses=_base_.distill_losses)
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
work_dir = 'work_dirs/digits_cls_gkd'
