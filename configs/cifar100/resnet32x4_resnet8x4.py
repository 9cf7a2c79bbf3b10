# ResNet32x4 teaches ResNet8x4.
# The method is any file of ../_base_/classification.
_base_ = ['./resnet8x4.py', '../_base_/classification/gkd.py']

model = dict(
    _delete_=True,
    type='Distiller',
    student=_base_.model,
    teacher=dict(config='{{ fileDirname }}/resnet32x4.py', checkpoint='work_dirs/cifar100_resnet32x4/epoch_240.pth'),
    distill_losses=_base_.distill_losses)
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
work_dir = 'work_dirs/cifar100_resnet32x4_resnet8x4'
