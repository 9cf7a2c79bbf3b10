"""Distillation losses, one file per paper: registered shells around :mod:`mmgkd.functional`."""
from .attention_graph import AttentionGraphLoss
from .base import DistillLoss
from .channel_graph import ChannelGraphLoss
from .holistic_graph import HolisticGraphLoss

__all__ = [
    'AttentionGraphLoss',
    'ChannelGraphLoss',
    'DistillLoss',
    'HolisticGraphLoss',
]
