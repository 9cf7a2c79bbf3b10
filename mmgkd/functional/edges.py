"""Edges between nodes, and how those of a student and of a teacher are compared: what all relational losses share.

Their published forms are points of one family: how two nodes are related (cosine, distance, inner product), how a
graph is normalised (by degrees, by its mean, by rows), which edges count, and how the difference is measured.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_at_least, check_one_of
from .graph import AFFINITIES, affinity, correlation, normalized_adjacency
from .precision import float32_island, working_dtype

__all__ = ['METRICS', 'MIN_NORM', 'NORMALIZATIONS', 'SIMILARITIES', 'check_nodes', 'match_edges', 'node_pairs',
           'normalize_edges', 'similarity_graph', 'teacher_knn_mask']

SIMILARITIES = ('cosine', 'distance', 'gram')
NORMALIZATIONS = ('degree', 'mean', 'row', 'none')
METRICS = ('frobenius', 'mse', 'smooth_l1')

MIN_NORM = 1e-12
"""A node that is no longer than that has no direction: its cosines are zero and pass no gradient."""
ROUNDING = 32
"""Squared distances of so many units in the last place of the nodes' squared norms are none; 12 were seen at most."""


def similarity_graph(nodes: Tensor, valid: Tensor | None = None, *, similarity: str = 'cosine',
                     rectify: str | None = None, normalize: str = 'none', loops: bool = False) -> Tensor:
    r"""The graphs of B sets of V nodes, from their inner products alone: no normalised copy of the nodes is made.

    ==========  =====================================================  ==============================
    cosine      :math:`\langle x_i, x_j\rangle / (|x_i| |x_j|)`        invariant to a factor per node
    distance    :math:`|x_i - x_j|`                                    invariant to a shift of all
    gram        :math:`\langle x_i, x_j\rangle`
    ==========  =====================================================  ==============================

    Every one is invariant to a rotation of the features, and permutes with the nodes. Nodes that coincide but for
    rounding have distance zero, and no gradient, which would have no direction.

    Args:
        nodes (Tensor): (B, V, D), any float type; computed in float32, or float64 if given.
        valid (Tensor, optional): (B, V) bool, False where there is no node: all its edges are zero.
        similarity (str): ``cosine``, ``distance`` or ``gram``.
        rectify (str, optional): Makes cosines non-negative: ``relu``, ``abs`` or ``shift``, :math:`(1 + A) / 2`.
        normalize (str): See :func:`normalize_edges`; ``degree`` is for rectified cosines.
        loops (bool): Keep the edge of each node to itself, otherwise zero.

    Returns:
        Tensor: (B, V, V), symmetric but for ``normalize='row'``.

    Raises:
        ValueError: An option is unknown, or does not go with the others.
    """
    _check_options(similarity, rectify, normalize)
    with float32_island(nodes):
        nodes = nodes.to(working_dtype(nodes))
        if similarity == 'distance':
            edges = _distances(nodes)
        else:
            edges = nodes @ nodes.mT  # (B, V, V)
        if similarity == 'cosine':
            edges = correlation(edges, edges.diagonal(dim1=-2, dim2=-1) > MIN_NORM ** 2)
        edges = affinity(edges, rectify, loops=loops)
        if valid is not None:
            edges = edges.masked_fill(~node_pairs(valid), 0)
        return normalize_edges(edges, normalize)


def normalize_edges(edges: Tensor, how: str) -> Tensor:
    r"""Edges relative to the others of their graph; a graph without any stays one.

    ======  ========================================================================================
    degree  :math:`D^{-1/2} A D^{-1/2}` with :math:`D` the sums of rows: spectral radius 1
    mean    by the mean of the edges above zero; invariant to a factor on all
    row     by the Euclidean norm of each row; invariant to a factor per row
    none    as they are
    ======  ========================================================================================

    Args:
        edges (Tensor): (B, V, V).
        how (str): See above.

    Raises:
        ValueError: ``how`` is unknown.
    """
    check_one_of(NORMALIZATIONS, normalize=how)
    if how == 'degree':
        return normalized_adjacency(edges)
    if how == 'mean':
        above = edges > 0
        total = (edges * above).sum((-2, -1), keepdim=True)  # (B, 1, 1)
        return edges * above.sum((-2, -1), keepdim=True) / torch.where(total > MIN_NORM, total, 1)
    if how == 'row':
        total = edges.detach().abs().sum((-2, -1), keepdim=True)  # (B, 1, 1), lest squares leave the range of floats
        edges = edges / torch.where(total > MIN_NORM ** 2, total, 1)
        squared = edges.square().sum(-1, keepdim=True)  # (B, V, 1)
        some = squared > MIN_NORM ** 2
        return edges * (torch.where(some, squared, 1).rsqrt() * some)
    return edges


def teacher_knn_mask(teacher: Tensor, k: int) -> Tensor:
    """Whether an edge is among the ``k`` largest of either of its nodes: the union, so that the mask is symmetric.

    Edges that are equal to the k-th count too. The mask therefore permutes with the nodes, where a choice among
    equals would depend on their order; in particular a node with fewer than k edges above zero keeps all of them
    and all zeros.

    Args:
        teacher (Tensor): (B, V, V), the teacher's graph: larger is nearer.
        k (int): At least 1; from V on, every edge is kept.

    Returns:
        Tensor: (B, V, V) bool.

    Raises:
        ValueError: ``k`` is below 1.
    """
    check_at_least(1, k=k)
    if k >= teacher.shape[-1]:
        return torch.ones_like(teacher, dtype=torch.bool)
    near = teacher >= teacher.topk(k, -1).values[..., -1:]  # (B, V, V)
    return near | near.mT


def match_edges(student: Tensor, teacher: Tensor, weight: Tensor | None = None, *,
                metric: str = 'frobenius') -> Tensor:
    r"""How much the edges of two graphs differ.

    =========  ===================================================================================================
    frobenius  :math:`\sum_e m_e (S_e - T_e)^2`, the squared norm: a sum
    mse        :math:`\sum_e m_e (S_e - T_e)^2 / \sum_e m_e`
    smooth_l1  :math:`\sum_e m_e h(S_e - T_e) / \sum_e m_e`, :math:`h(x) = x^2 / 2` up to 1, :math:`|x| - 1/2` beyond
    =========  ===================================================================================================

    Args:
        student (Tensor): (B, ...) edges between two nodes (B, V, V), or relations of more.
        teacher (Tensor): The same of the teacher; receives no gradient.
        weight (Tensor, optional): Of that shape, non-negative or bool; one each by default.
        metric (str): See above.

    Returns:
        Tensor: (B,), zero where there is no edge of any weight.

    Raises:
        ValueError: The graphs are of different sizes, or the metric is unknown.
    """
    if student.shape != teacher.shape:
        raise ValueError('the graphs of student and teacher must have the same nodes, got edges of shapes '
                         f'{tuple(student.shape)} and {tuple(teacher.shape)}')
    check_one_of(METRICS, metric=metric)
    teacher, edges = teacher.detach(), tuple(range(1, student.dim()))
    difference = F.smooth_l1_loss(student, teacher, reduction='none') if metric == 'smooth_l1' \
        else (student - teacher).square()
    if weight is not None:
        weight = weight.to(difference.dtype)
        difference = weight * difference
    value = difference.sum(edges)  # (B,)
    if metric == 'frobenius':
        return value
    if weight is None:
        return value / max(student[:1].numel(), 1)
    return value / weight.sum(edges).clamp(min=torch.finfo(weight.dtype).tiny)


def node_pairs(valid: Tensor) -> Tensor:
    """(B, V, V) bool, whether both ends of an edge are nodes, from (B, V) bool."""
    return valid.unsqueeze(-1) & valid.unsqueeze(-2)


def check_nodes(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> None:
    """Refuse what is not nodes (B, V, D) of as many graphs, with as many nodes, on both sides; D may differ.

    Raises:
        ValueError: A shape does not fit.
    """
    if student.dim() != 3 or teacher.dim() != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ValueError('student and teacher must be nodes (B, V, D) of the same B and V, got '
                         f'{tuple(student.shape)} and {tuple(teacher.shape)}')
    if valid is not None and valid.shape != student.shape[:2]:
        raise ValueError(f'valid must be (B, V) = {tuple(student.shape[:2])}, got {tuple(valid.shape)}')


def _distances(nodes: Tensor) -> Tensor:
    """(B, V, V), from inner products of the nodes around their mean, lest large means cancel."""
    nodes = nodes - nodes.detach().mean(-2, keepdim=True)  # any shift will do: it needs no gradient
    gram = nodes @ nodes.mT
    norms = gram.diagonal(dim1=-2, dim2=-1)
    norms = norms.unsqueeze(-1) + norms.unsqueeze(-2)  # (B, V, V)
    squared = norms - 2 * gram
    apart = squared > ROUNDING * torch.finfo(gram.dtype).eps * norms
    return torch.where(apart, squared, 1).sqrt() * apart


def _check_options(similarity, rectify, normalize) -> None:
    check_one_of(SIMILARITIES, similarity=similarity)
    check_one_of(NORMALIZATIONS, normalize=normalize)
    check_one_of((*AFFINITIES, None), rectify=rectify)
    if rectify is not None and similarity != 'cosine':
        raise ValueError(f"rectify={rectify!r} is for similarity='cosine', got {similarity!r}")
    if normalize == 'degree' and rectify is None:
        raise ValueError("normalize='degree' needs rectify: degrees of signed edges may be negative")
