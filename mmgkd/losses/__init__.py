"""Distillation losses, one file per paper: registered shells around :mod:`mmgkd.functional`."""
from .base import DistillLoss
from .channel_graph import ChannelGraphLoss
from .holistic_graph import HolisticGraphLoss

__all__ = [
    'ChannelGraphLoss',
    'DistillLoss',
    'HolisticGraphLoss',
]
