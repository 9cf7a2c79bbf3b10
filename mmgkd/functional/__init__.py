"""Pure graph and distillation mathematics: functions of tensors that import torch and nothing else.

Python imports a package before what is in it, so ``import mmgkd.functional`` needs all that ``import mmgkd`` needs.
Where only torch is installed, copy this folder, or link to it, under a name of its own: it needs nothing around it.
"""
from .attention import channel_attention, spatial_attention, uniform_weight
from .attention_graph import attend, attention_logits, graph_kl, keep_heads, vector_distance
from .channel_graph import channel_graph_terms, edge_loss, vertex_loss
from .compression import aligned_vectors, mean_vectors, principal_vectors
from .contrast import info_nce, unit_rows
from .graph import affinity, correlation, nontrivial_laplacian, normalized_laplacian
from .moments import Moments, moments
from .neighbour_graph import knn_graph, prediction_graph, tag_convolution
from .precision import float32_island
from .spectral import rayleigh_loss, smallest_eigenpairs, spectral_projector, subspace_loss

__all__ = [
    'Moments', 'affinity', 'channel_attention', 'channel_graph_terms', 'correlation', 'edge_loss',
    'float32_island', 'info_nce', 'knn_graph', 'moments', 'nontrivial_laplacian', 'normalized_laplacian',
    'prediction_graph', 'rayleigh_loss', 'smallest_eigenpairs', 'spatial_attention', 'spectral_projector',
    'subspace_loss', 'tag_convolution', 'uniform_weight', 'unit_rows', 'vertex_loss',
    'aligned_vectors', 'attend', 'attention_logits', 'graph_kl', 'keep_heads', 'mean_vectors', 'principal_vectors',
    'vector_distance',
]
