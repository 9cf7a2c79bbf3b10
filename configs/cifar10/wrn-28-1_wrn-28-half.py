# The pair of Lassance et al.: WRN-28-1 teaches WRN-28-0.5.
# The method is any file of ../_base_/classification.
_base_ = ['./wrn-28-half.py', '../_base_/classification/gkd.py']

model = dict(
    _delete_=True,
    type='Distiller',
    student=_base_.model,
    teacher=dict(config='{{ fileDirname }}/wrn-28-1.py', checkpoint='work_dirs/cifar10_wrn-28-1/epoch_200.pth'),
    distill_losses=_base_.distill_losses)
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
work_dir = 'work_dirs/cifar10_wrn-28-1_wrn-28-half'
