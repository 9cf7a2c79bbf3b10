"""Pure graph and distillation mathematics: functions of tensors that import torch and nothing else.

Python imports a package before what is in it, so ``import mmgkd.functional`` needs all that ``import mmgkd`` needs.
Where only torch is installed, copy this folder, or link to it, under a name of its own: it needs nothing around it.
"""
from .attention import channel_attention, spatial_attention, uniform_weight
from .attention_graph import attend, attention_logits, graph_kl, keep_heads, vector_distance
from .channel_graph import channel_graph_terms, edge_loss, vertex_loss
from .compression import aligned_vectors, mean_vectors, principal_vectors
from .contrast import info_nce, unit_rows
from .dist import dist_terms
from .dsig import dsig_terms
from .edges import match_edges, normalize_edges, similarity_graph, teacher_knn_mask
from .geometric_graph import geometric_graph_loss
from .graph import affinity, correlation, nontrivial_laplacian, normalized_adjacency, normalized_laplacian
from .kl import kl_loss
from .ld import ld_loss
from .moments import Moments, moments
from .neighbour_graph import knn_graph, prediction_graph, tag_convolution
from .precision import float32_island
from .rkd import rkd_terms
from .similarity_preserving import similarity_preserving_loss
from .spectral import rayleigh_loss, smallest_eigenpairs, spectral_projector, subspace_loss

__all__ = [
    'Moments',
    'affinity',
    'aligned_vectors',
    'attend',
    'attention_logits',
    'channel_attention',
    'channel_graph_terms',
    'correlation',
    'dist_terms',
    'dsig_terms',
    'edge_loss',
    'float32_island',
    'geometric_graph_loss',
    'graph_kl',
    'info_nce',
    'keep_heads',
    'kl_loss',
    'knn_graph',
    'ld_loss',
    'match_edges',
    'mean_vectors',
    'moments',
    'nontrivial_laplacian',
    'normalize_edges',
    'normalized_adjacency',
    'normalized_laplacian',
    'prediction_graph',
    'principal_vectors',
    'rayleigh_loss',
    'rkd_terms',
    'similarity_graph',
    'similarity_preserving_loss',
    'smallest_eigenpairs',
    'spatial_attention',
    'spectral_projector',
    'subspace_loss',
    'tag_convolution',
    'teacher_knn_mask',
    'uniform_weight',
    'unit_rows',
    'vector_distance',
    'vertex_loss',
]
