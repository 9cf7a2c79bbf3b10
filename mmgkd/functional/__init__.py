"""Pure graph and distillation mathematics: functions of tensors that import torch and nothing else."""
from .attention import channel_attention, spatial_attention, uniform_weight
from .channel_graph import channel_graph_terms, edge_loss, vertex_loss
from .dsig import dsig_terms
from .edges import match_edges, normalize_edges, similarity_graph, teacher_knn_mask
from .geometric_graph import geometric_graph_loss
from .graph import affinity, correlation, nontrivial_laplacian, normalized_adjacency, normalized_laplacian
from .moments import Moments, moments
from .precision import float32_island
from .rkd import rkd_terms
from .similarity_preserving import similarity_preserving_loss
from .spectral import rayleigh_loss, smallest_eigenpairs, spectral_projector, subspace_loss

__all__ = [
    'Moments', 'affinity', 'channel_attention', 'channel_graph_terms', 'correlation', 'dsig_terms', 'edge_loss',
    'float32_island', 'geometric_graph_loss', 'match_edges', 'moments', 'nontrivial_laplacian', 'normalize_edges',
    'normalized_adjacency', 'normalized_laplacian', 'rayleigh_loss', 'rkd_terms', 'similarity_graph',
    'similarity_preserving_loss', 'smallest_eigenpairs', 'spatial_attention', 'spectral_projector', 'subspace_loss',
    'teacher_knn_mask', 'uniform_weight', 'vertex_loss',
]
