"""Pure graph and distillation mathematics: functions of tensors that import torch and nothing else."""
from .attention import channel_attention, spatial_attention, uniform_weight
from .channel_graph import channel_graph_terms, edge_loss, vertex_loss
from .edges import match_edges, normalize_edges, similarity_graph, teacher_knn_mask
from .graph import affinity, correlation, nontrivial_laplacian, normalized_adjacency, normalized_laplacian
from .moments import Moments, moments
from .precision import float32_island
from .spectral import rayleigh_loss, smallest_eigenpairs, spectral_projector, subspace_loss

__all__ = [
    'Moments', 'affinity', 'channel_attention', 'channel_graph_terms', 'correlation', 'edge_loss', 'float32_island',
    'match_edges', 'moments', 'nontrivial_laplacian', 'normalize_edges', 'normalized_adjacency',
    'normalized_laplacian', 'rayleigh_loss', 'similarity_graph', 'smallest_eigenpairs', 'spatial_attention',
    'spectral_projector', 'subspace_loss', 'teacher_knn_mask', 'uniform_weight', 'vertex_loss',
]
