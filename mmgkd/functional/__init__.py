"""Pure graph and distillation mathematics: functions of tensors that import torch and nothing else.

Python imports a package before what is in it, so ``import mmgkd.functional`` needs all that ``import mmgkd`` needs.
Where only torch is installed, copy this folder, or link to it, under a name of its own: it needs nothing around it.
"""
from .at import attention_transfer_loss
from .attention import (
    channel_attention,
    channel_focus,
    masked_softmax,
    spatial_attention,
    spatial_focus,
    uniform_weight,
)
from .attention_graph import attend, attention_logits, graph_kl, keep_heads, vector_distance
from .cells import kept_cells
from .channel_graph import channel_graph_levels, channel_graph_terms, edge_loss, vertex_loss
from .coarsen import coarsen, square_side
from .compression import aligned_vectors, mean_vectors, principal_vectors
from .contrast import info_nce, unit_rows
from .cwd import cwd_loss
from .dist import dist_terms
from .dsig import dsig_terms
from .edges import match_edges, normalize_edges, similarity_graph, teacher_knn_mask
from .fbkd import euclidean_distance, mutual_focus, non_local, standardize_channels
from .fgd import box_mask, fgd_terms
from .fitnet import fitnet_loss
from .geometric_graph import geometric_graph_loss
from .graph import affinity, correlation, nontrivial_laplacian, normalized_adjacency, normalized_laplacian
from .ickd import ickd_loss
from .kl import kl_loss
from .ld import ld_loss
from .mgd import mgd_loss, mgd_mask
from .moments import Moments, moments
from .neighbour_graph import knn_graph, prediction_graph, tag_convolution
from .pkd import pkd_loss
from .precision import float32_island
from .rkd import rkd_terms
from .similarity_preserving import similarity_preserving_loss
from .spectral import rayleigh_loss, smallest_eigenpairs, spectral_projector, subspace_loss
from .sums import cell_sum, squared_distance

__all__ = [
    'Moments',
    'affinity',
    'aligned_vectors',
    'attend',
    'attention_logits',
    'attention_transfer_loss',
    'box_mask',
    'cell_sum',
    'channel_attention',
    'channel_focus',
    'channel_graph_levels',
    'channel_graph_terms',
    'coarsen',
    'correlation',
    'cwd_loss',
    'dist_terms',
    'dsig_terms',
    'edge_loss',
    'euclidean_distance',
    'fgd_terms',
    'fitnet_loss',
    'float32_island',
    'geometric_graph_loss',
    'graph_kl',
    'ickd_loss',
    'info_nce',
    'keep_heads',
    'kept_cells',
    'kl_loss',
    'knn_graph',
    'ld_loss',
    'masked_softmax',
    'match_edges',
    'mean_vectors',
    'mgd_loss',
    'mgd_mask',
    'moments',
    'mutual_focus',
    'non_local',
    'nontrivial_laplacian',
    'normalize_edges',
    'normalized_adjacency',
    'normalized_laplacian',
    'pkd_loss',
    'prediction_graph',
    'principal_vectors',
    'rayleigh_loss',
    'rkd_terms',
    'similarity_graph',
    'similarity_preserving_loss',
    'smallest_eigenpairs',
    'spatial_attention',
    'spatial_focus',
    'spectral_projector',
    'square_side',
    'squared_distance',
    'standardize_channels',
    'subspace_loss',
    'tag_convolution',
    'teacher_knn_mask',
    'uniform_weight',
    'unit_rows',
    'vector_distance',
    'vertex_loss',
]
