"""Distillation losses, one file per paper: registered shells around :mod:`mmgkd.functional`."""
from .base import DistillLoss
from .channel_graph import ChannelGraphLoss
from .dsig import DSIGLoss
from .geometric_graph import GeometricGraphLoss
from .rkd import RKDLoss
from .similarity_preserving import SimilarityPreservingLoss

__all__ = [
    'ChannelGraphLoss',
    'DSIGLoss',
    'DistillLoss',
    'GeometricGraphLoss',
    'RKDLoss',
    'SimilarityPreservingLoss',
]
