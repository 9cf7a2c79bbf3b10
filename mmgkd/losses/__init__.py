"""Distillation losses, one file per paper: registered shells around :mod:`mmgkd.functional`."""
from .attention_graph import AttentionGraphLoss
from .base import DistillLoss
from .channel_graph import ChannelGraphLoss
from .dist import DISTLoss
from .dsig import DSIGLoss
from .geometric_graph import GeometricGraphLoss
from .holistic_graph import HolisticGraphLoss
from .kl import KLLoss
from .ld import LDLoss
from .rkd import RKDLoss
from .similarity_preserving import SimilarityPreservingLoss

__all__ = [
    'AttentionGraphLoss',
    'ChannelGraphLoss',
    'DISTLoss',
    'DSIGLoss',
    'DistillLoss',
    'GeometricGraphLoss',
    'HolisticGraphLoss',
    'KLLoss',
    'LDLoss',
    'RKDLoss',
    'SimilarityPreservingLoss',
]
