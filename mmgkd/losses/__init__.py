"""Distillation losses, one file per paper: registered shells around :mod:`mmgkd.functional`."""
from .at import AttentionTransferLoss
from .attention_graph import AttentionGraphLoss
from .base import DistillLoss
from .channel_graph import ChannelGraphLoss
from .cwd import CWDLoss
from .dist import DISTLoss
from .dsig import DSIGLoss
from .fbkd import FBKDLoss
from .fgd import FGDLoss
from .fitnet import FitNetLoss
from .geometric_graph import GeometricGraphLoss
from .holistic_graph import HolisticGraphLoss
from .ickd import ICKDLoss
from .kl import KLLoss
from .ld import LDLoss
from .mgd import MGDLoss
from .pkd import PKDLoss
from .rkd import RKDLoss
from .similarity_preserving import SimilarityPreservingLoss

__all__ = [
    'AttentionGraphLoss',
    'AttentionTransferLoss',
    'CWDLoss',
    'ChannelGraphLoss',
    'DISTLoss',
    'DSIGLoss',
    'DistillLoss',
    'FBKDLoss',
    'FGDLoss',
    'FitNetLoss',
    'GeometricGraphLoss',
    'HolisticGraphLoss',
    'ICKDLoss',
    'KLLoss',
    'LDLoss',
    'MGDLoss',
    'PKDLoss',
    'RKDLoss',
    'SimilarityPreservingLoss',
]
