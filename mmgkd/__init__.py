"""Graph knowledge distillation for MMDetection: importing it registers everything in mmdet's registries."""
from .environment import check_environment
from .version import __version__

check_environment()

from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

from . import classification, losses  # noqa: E402
from .classification import *  # noqa: E402, F403
from .connectors import NeckConnector  # noqa: E402
from .distiller import Distiller  # noqa: E402
from .hooks import DistillWeightHook, PrepareLossesHook  # noqa: E402
from .losses import *  # noqa: E402, F403
from .pretrained import register_torchvision_scheme  # noqa: E402
from .teacher import Teacher  # noqa: E402

register_torchvision_scheme()
MODULE2PACKAGE.setdefault('mmgkd', 'mmgkd')  # so that configs can name bases and models 'mmgkd::folder/name.py'

__all__ = [
    'DistillWeightHook', 'Distiller', 'NeckConnector', 'PrepareLossesHook', 'Teacher', '__version__',
    *classification.__all__, *losses.__all__,
]
