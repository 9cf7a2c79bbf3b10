"""The backbones of the distillation papers' classification benchmarks, for images of 32 pixels."""
from .base import StagedBackbone
from .mobilenet import CifarMobileNetV2
from .resnet import CifarResNet
from .shufflenet import CifarShuffleNetV2
from .vgg import CifarVGG
from .wide_resnet import WideResNet

__all__ = ['CifarMobileNetV2', 'CifarResNet', 'CifarShuffleNetV2', 'CifarVGG', 'StagedBackbone', 'WideResNet']
