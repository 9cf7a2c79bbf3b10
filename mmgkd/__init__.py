"""Graph knowledge distillation for MMDetection: importing it registers everything in mmdet's registries.

Models and hooks are registered in MMEngine's as well, so that configs of another default scope, such as mmpretrain's,
find them by the same names.
"""
from .environment import check_environment
from .installation import installed
from .version import __version__

check_environment(installed())

from mmdet.registry import HOOKS, MODELS  # noqa: E402
from mmengine.config.utils import MODULE2PACKAGE  # noqa: E402

from . import classification, losses  # noqa: E402
from .classification import *  # noqa: E402, F403
from .connectors import NeckConnector  # noqa: E402
from .distiller import Distiller  # noqa: E402
from .hooks import DistillWeightHook, PrepareLossesHook  # noqa: E402
from .losses import *  # noqa: E402, F403
from .pretrained import register_torchvision_scheme  # noqa: E402
from .teacher import Teacher  # noqa: E402

for _registry in (MODELS, HOOKS):
    for _name, _class in _registry.module_dict.items():
        if _class.__module__.startswith('mmgkd.'):
            _registry.parent.register_module(_name, module=_class)
register_torchvision_scheme()
MODULE2PACKAGE.setdefault('mmgkd', 'mmgkd')  # so that configs can name bases and models 'mmgkd::folder/name.py'

__all__ = [
    'DistillWeightHook', 'Distiller', 'NeckConnector', 'PrepareLossesHook', 'Teacher', '__version__',
    *classification.__all__, *losses.__all__,
]
