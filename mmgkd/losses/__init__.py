"""Distillation losses, one file per paper: registered shells around :mod:`mmgkd.functional`."""
from .attention_graph import AttentionGraphLoss
from .base import DistillLoss
from .channel_graph import ChannelGraphLoss
from .dist import DISTLoss
from .holistic_graph import HolisticGraphLoss
from .kl import KLLoss
from .ld import LDLoss

__all__ = [
    'AttentionGraphLoss',
    'ChannelGraphLoss',
    'DISTLoss',
    'DistillLoss',
    'HolisticGraphLoss',
    'KLLoss',
    'LDLoss',
]
