# GKD on DeepPCB: base width 32 teaches base width 8.
_base_ = ['./student.py', '../_base_/gkd.py']

model = dict(
    _delete_=True,
    type='Distiller',
    student=_base_.model,
    teacher=dict(config='{{ fileDirname }}/teacher.py', checkpoint='work_dirs/deeppcb_teacher/epoch_24.pth'),
    distill_losses=_base_.distill_losses,
    inherit='neck+head')
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
work_dir = 'work_dirs/deeppcb_gkd'
