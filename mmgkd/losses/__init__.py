"""Distillation losses, one file per paper: registered shells around :mod:`mmgkd.functional`."""
from .base import DistillLoss
from .channel_graph import ChannelGraphLoss

__all__ = [
    'ChannelGraphLoss',
    'DistillLoss',
]
