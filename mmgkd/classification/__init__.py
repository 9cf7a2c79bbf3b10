"""Image classification, as far as distillation needs it: what the papers' benchmarks are made of.

mmpretrain is the host of choice where it can be imported; its classifiers are distilled just the same.
"""
from .backbones import CifarMobileNetV2, CifarResNet, CifarShuffleNetV2, CifarVGG, WideResNet
from .classifier import Classifier
from .datasets import CIFAR10, CIFAR100, DigitsImages
from .head import LinearHead
from .metrics import Accuracy
from .samples import ClsDataSample
from .transforms import PackClsInputs, PadRandomCrop, stack_images

__all__ = [
    'Accuracy', 'CIFAR10', 'CIFAR100', 'CifarMobileNetV2', 'CifarResNet', 'CifarShuffleNetV2', 'CifarVGG',
    'Classifier', 'ClsDataSample', 'DigitsImages', 'LinearHead', 'PackClsInputs', 'PadRandomCrop', 'WideResNet',
    'stack_images',
]
