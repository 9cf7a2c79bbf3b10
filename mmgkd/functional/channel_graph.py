"""GKD: the channels of a map as a graph, its vertices, edges and spectral embedding compared.

The graph, its cosine edges and the three alignments are of Wang et al., "Multi-Level Feature Distillation via
Channels Relational Graph" (arXiv 2405.08547). The exact form of the terms and of the attention is this project's.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .attention import channel_attention, spatial_attention, uniform_weight
from .checks import check_maps, check_temperature
from .edges import match_edges
from .graph import AFFINITIES, correlation, nontrivial_laplacian, normalized_laplacian
from .graph import affinity as to_affinity
from .moments import moments
from .precision import float32_island
from .spectral import rayleigh_loss, smallest_eigenpairs, subspace_loss

__all__ = ['ATTENTIONS', 'SPECTRAL_MODES', 'TERMS', 'channel_graph_terms', 'edge_loss', 'vertex_loss']

TERMS = ('vertex', 'edge', 'spectral')
ATTENTIONS = ('spatial', 'channel', 'relational')
SPECTRAL_MODES = ('rayleigh', 'subspace')


def vertex_loss(student: Tensor, teacher: Tensor, cross: Tensor, weight: Tensor) -> Tensor:
    r""":math:`\frac{1}{C}\sum_c w_c (1 - r_c)`, :math:`r_c` the correlation of channel c in student and teacher.

    Invariant to a positive factor on each channel of either side, and to a shift if the moments are centred.

    Args:
        student (Tensor): (N, C), positive second moments.
        teacher (Tensor): (N, C), positive second moments.
        cross (Tensor): (N, C), cross moments.
        weight (Tensor): (N, C).

    Returns:
        Tensor: (N,).
    """
    r = cross * (student.rsqrt() * teacher.rsqrt())
    return (weight * (1 - r)).mean(-1)


def edge_loss(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    r""":math:`\sum_{i\ne j} m_{ij}(A^S_{ij} - A^T_{ij})^2 / \sum_{i\ne j} m_{ij}`.

    Args:
        student (Tensor): (N, V, V), edge weights.
        teacher (Tensor): (N, V, V).
        weight (Tensor): (N, V, V), non-negative; its diagonal is ignored.

    Returns:
        Tensor: (N,), zero where all weights are.
    """
    weight = weight - torch.diag_embed(weight.diagonal(dim1=-2, dim2=-1))
    return match_edges(student, teacher, weight, metric='mse')


def channel_graph_terms(
        student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, terms: Sequence[str] = TERMS,
        attention: Sequence[str] | None = ('spatial', 'channel'), temperature: float = 0.5,
        centered: bool = True, spectral: str = 'rayleigh', affinity: str = 'relu',
        num_eigenvectors: int = 16, pooled: bool = False) -> dict[str, Tensor]:
    """The terms of GKD at one level, each a mean over images.

    Each is zero when the maps are equal, does not change when the channels of both are permuted alike, and, if
    centred, does not change under a positive affine map of each channel of the student (nor, without attention, of
    the teacher). A channel that is constant in the teacher carries no relation and is left out; one that is constant
    in the student correlates with nothing, and gets no gradient.

    Args:
        student (Tensor): (N, C, H, W), any float type; computed in float32, or float64 if given.
        teacher (Tensor): (N, C, H, W), of the same shape; receives no gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        terms (Sequence[str]): Which of ``vertex``, ``edge``, ``spectral`` to compute.
        attention (Sequence[str], optional): Teacher-guided weights, any of ``spatial`` (cells), ``channel``
            (vertices, and edges by the product of their ends), ``relational`` (edges by the teacher's own
            strength). ``None`` with ``centered=False`` gives the paper's literal cosine graph.
        temperature (float): Of the attention's softmax.
        centered (bool): Correlations (True) or cosines (False).
        spectral (str): ``rayleigh`` or ``subspace``, see :mod:`mmgkd.functional.spectral`.
        affinity (str): Of the spectral term: ``relu``, ``abs`` or ``shift``.
        num_eigenvectors (int): Of the spectral term; fewer than channels.
        pooled (bool): One graph of the cells of all images, each image counting the same, instead of one per image.

    Returns:
        dict[str, Tensor]: Term to scalar; zero with a gradient for an empty batch.

    Raises:
        ValueError: Shapes differ, or an option is unknown.
    """
    check_maps(student, teacher, valid)
    _check_options(terms, attention, temperature, spectral, affinity)
    teacher, attention = teacher.detach(), attention or ()
    with float32_island(student):
        cell_weight = spatial_attention(teacher, valid, temperature=temperature) \
            if 'spatial' in attention else uniform_weight(teacher, valid)  # (N, HW)
        images = max(len(student), 1)
        if pooled:
            cell_weight = cell_weight / images
        m = moments(student, teacher, cell_weight, centered=centered, gram=set(terms) != {'vertex'}, pooled=pooled)
        alive = m.teacher_alive  # (N, C), as the moments: of one graph if pooled
        weight = alive.to(cell_weight.dtype)
        if 'channel' in attention:
            focus = channel_attention(teacher, valid, temperature=temperature)
            weight = weight * (focus.sum(0, keepdim=True) / images if pooled else focus)
        losses = {}
        if 'vertex' in terms:
            losses['vertex'] = vertex_loss(
                _second_moments(m.student, m.student_alive), _second_moments(m.teacher, alive),
                m.cross * m.student_alive, weight)
        if 'edge' in terms or 'spectral' in terms:
            graph_s, graph_t = correlation(m.student, alive & m.student_alive), correlation(m.teacher, alive)
        if 'edge' in terms:
            pair = weight.unsqueeze(-1) * weight.unsqueeze(-2)  # (N, C, C)
            losses['edge'] = edge_loss(graph_s, graph_t, pair * graph_t.abs() if 'relational' in attention else pair)
        if 'spectral' in terms:
            among = alive.unsqueeze(-1) & alive.unsqueeze(-2)  # (N, C, C)
            near_s, near_t = (to_affinity(g, affinity) * among for g in (graph_s, graph_t))
            values, vectors = smallest_eigenpairs(nontrivial_laplacian(near_t, alive), num_eigenvectors)
            losses['spectral'] = rayleigh_loss(normalized_laplacian(near_s), values, vectors) \
                if spectral == 'rayleigh' else subspace_loss(nontrivial_laplacian(near_s, alive), vectors)
        return {term: value.sum() / max(len(value), 1) for term, value in losses.items()}


def _second_moments(second: Tensor, alive: Tensor) -> Tensor:
    """(N, C) second moments, from a Gram matrix or as they are; one for channels that do not vary."""
    return torch.where(alive, second.diagonal(dim1=-2, dim2=-1) if second.dim() == 3 else second, 1)


def _check_options(terms, attention, temperature, spectral, affinity) -> None:
    for name, given, known in (('terms', terms, TERMS), ('attention', attention or (), ATTENTIONS),
                               ('spectral', (spectral,), SPECTRAL_MODES), ('affinity', (affinity,), AFFINITIES)):
        if isinstance(given, str):
            raise ValueError(f'{name} must be a sequence of names, got the string {given!r}: write ({given!r},)')
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f'{name} must be of {tuple(known)}, got {unknown}')
    check_temperature(temperature)
