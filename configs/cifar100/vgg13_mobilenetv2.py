# VGG-13 teaches MobileNetV2, whose stages have half the size.
# The method is any file of ../_base_/classification.
_base_ = ['./mobilenetv2.py', '../_base_/classification/gkd.py']

model = dict(
    _delete_=True,
    type='Distiller',
    student=_base_.model,
    teacher=dict(config='{{ fileDirname }}/vgg13.py', checkpoint='work_dirs/cifar100_vgg13/epoch_240.pth'),
    connector=dict(resize=True),
    distill_losses=_base_.distill_losses)
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)
custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]
work_dir = 'work_dirs/cifar100_vgg13_mobilenetv2'
