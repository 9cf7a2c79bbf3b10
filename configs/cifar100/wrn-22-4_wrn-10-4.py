# MHGD's pair: WRN-22-4 teaches WRN-10-4.
# The method is any file of ../_base_/classification.
_base_ = ['./wrn-10-4.py', '../_base_/classification/gkd.py']

model = dict(
    _delete_=True,
    type='Distiller',
    student=_base_.model,
    teacher=dict(config='{{ fileDirname }}/wrn-22-4.py', checkpoint='work_dirs/cifar100_wrn-22-4/epoch_100.pth'),
    distill_losses=_base_.distill_losses)
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
work_dir = 'work_dirs/cifar100_wrn-22-4_wrn-10-4'
