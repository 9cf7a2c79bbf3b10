"""Pure graph and distillation mathematics: functions of tensors that import torch and nothing else."""
from .attention import channel_attention, spatial_attention, uniform_weight
from .channel_graph import channel_graph_terms, edge_loss, vertex_loss
from .dist import dist_terms
from .graph import affinity, correlation, nontrivial_laplacian, normalized_laplacian
from .kl import kl_loss
from .ld import ld_loss
from .moments import Moments, moments
from .precision import float32_island
from .spectral import rayleigh_loss, smallest_eigenpairs, spectral_projector, subspace_loss

__all__ = [
    'Moments', 'affinity', 'channel_attention', 'channel_graph_terms', 'correlation', 'dist_terms', 'edge_loss',
    'float32_island', 'kl_loss', 'ld_loss', 'moments', 'nontrivial_laplacian', 'normalized_laplacian',
    'rayleigh_loss', 'smallest_eigenpairs', 'spatial_attention', 'spectral_projector', 'subspace_loss',
    'uniform_weight', 'vertex_loss',
]
