"""GKD: the channels of a map as a graph, its vertices, edges and spectral embedding compared.

The graph, its cosine edges and the three alignments are of Wang et al., "Multi-Level Feature Distillation via
Channels Relational Graph" (arXiv 2405.08547). The exact form of the terms and of the attention is this project's.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import channel_attention, spatial_attention, uniform_weight
from .checks import check_maps, check_temperature
from .coarsen import coarsen, coarsen_beside, means_beside, square_side
from .edges import match_edges
from .graph import AFFINITIES, correlation, nontrivial_laplacian, normalized_laplacian
from .graph import affinity as to_affinity
from .moments import Moments, moments, moments_within
from .precision import float32_island
from .spectral import rayleigh_loss, smallest_eigenpairs, subspace_loss

__all__ = ['ATTENTIONS', 'SPECTRAL_MODES', 'TERMS', 'channel_graph_levels', 'channel_graph_terms',
           'edge_loss', 'vertex_loss']

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

    Vertices bring edges along: :math:`|A^S_{ij} - A^T_{ij}| \le \sqrt{2 (1 - r_i)} + \sqrt{2 (1 - r_j)}`, and without
    attention this term is at most eight times that of the vertices. It asks for more where these cannot agree.

    Args:
        student (Tensor): (N, V, V), edge weights.
        teacher (Tensor): (N, V, V).
        weight (Tensor): (N, V, V), non-negative; its diagonal is ignored.

    Returns:
        Tensor: (N,), zero where all weights are.
    """
    weight = weight - torch.diag_embed(weight.diagonal(dim1=-2, dim2=-1))
    return match_edges(student, teacher, weight, metric='mse')


def channel_graph_terms(student: Tensor, teacher: Tensor, valid: Tensor | None = None, **options) -> dict[str, Tensor]:
    """The terms of GKD at one level: term to scalar.

    Args:
        student (Tensor): (N, C, H, W).
        teacher (Tensor): (N, C, H, W).
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        options: Those of :func:`channel_graph_levels`.
    """
    values = channel_graph_levels([student], [teacher], [valid], **options)
    return {term: value.squeeze(0) for term, value in values.items()}


def channel_graph_levels(
        students: Sequence[Tensor], teachers: Sequence[Tensor], valids: Sequence[Tensor | None], *,
        terms: Sequence[str] = TERMS, attention: Sequence[str] | None = None,
        temperature: float = 0.5, centered: bool = True, spectral: str = 'rayleigh', affinity: str = 'relu',
        num_eigenvectors: int = 16, pooled: bool = False, window_size: int | None = None,
        max_cells: int | None = None) -> dict[str, Tensor]:
    """The terms of GKD at several levels, each a mean over images.

    Each is zero when the maps are equal, does not change when the channels of both are permuted alike, and, if
    centred, does not change under a positive affine map of each channel of the student (nor, without attention, of
    the teacher). A channel that is constant in the teacher carries no relation and is left out; one that is constant
    in the student correlates with nothing, and gets no gradient.

    The graphs of all levels of as many channels are compared, and their eigenvectors found, at once.

    Args:
        students (Sequence[Tensor]): (N, C, H, W) per level, any float type; computed in float32, or float64 if given.
        teachers (Sequence[Tensor]): (N, C, H, W) per level, of the same shapes; receive no gradient.
        valids (Sequence[Tensor | None]): (N, H, W) bool per level, False on padding, or ``None``.
        terms (Sequence[str]): Which of ``vertex``, ``edge``, ``spectral`` to compute.
        attention (Sequence[str], optional): Teacher-guided weights, any of ``spatial`` (cells), ``channel``
            (vertices, and edges by the product of their ends), ``relational`` (edges by the teacher's own
            strength). ``None`` with ``centered=False`` gives the paper's literal cosine graph.
        temperature (float): Of the attention's softmax.
        centered (bool): Correlations (True) or cosines (False), of whole maps alone.
        spectral (str): ``rayleigh`` or ``subspace``, see :mod:`mmgkd.functional.spectral`.
        affinity (str): Of the spectral term: ``relu``, ``abs`` or ``shift``.
        num_eigenvectors (int): Of the spectral term; fewer than channels.
        pooled (bool): One graph of the cells of all images, each image counting the same, instead of one per image.
        window_size (int, optional): Correlations are those within windows of so many by so many cells: each cell is
            taken relative to the mean of its window, and what changes slowly over an image counts less. A channel
            with no more than 1e-4 of its variance within windows counts as constant. By default, and of a map no
            larger, correlations are those over the whole map.
        max_cells (int, optional): Edges and spectrum of a map of more cells are estimated from its means over squares
            of cells, so many at most: a Gram matrix then costs the same however large an image is. Spatial attention to
            them is that to the means; attention to channels is that to the map. By default maps are as they are.

    Returns:
        dict[str, Tensor]: Term to (L,), a value per level; zeros with a gradient for an empty batch.

    Raises:
        ValueError: Shapes differ, or an option is unknown, or cosines are asked for within windows.
    """
    _check_options(terms, attention, temperature, centered, spectral, affinity, window_size)
    attention, alike = attention or (), defaultdict(list)
    for level, (student, teacher, valid) in enumerate(zip(students, teachers, valids, strict=True)):
        check_maps(student, teacher, valid)
        side = 1 if max_cells is None else square_side(*teacher.shape[2:], max_cells)
        with float32_island(student):
            graphs = _graphs(student, teacher.detach(), valid, side, terms, attention, temperature, centered, pooled,
                             window_size)
        alike[graphs.focus.shape, graphs.focus.dtype].append((level, graphs))
    losses = {term: [None] * len(students) for term in terms}
    for group in alike.values():
        levels, graphs = zip(*group, strict=True)
        with float32_island(students[levels[0]]):
            found = _compare(_together(graphs), terms, 'relational' in attention, spectral, affinity, num_eigenvectors)
        for term, value in found.items():
            value = value.view(len(levels), len(graphs[0].focus))  # (levels, N)
            for level, loss in zip(levels, value.sum(1) / max(value.shape[1], 1), strict=True):
                losses[term][level] = loss
    return {term: torch.stack(values) for term, values in losses.items()}


class _Graphs(NamedTuple):
    """What is compared: moments of channels, Gram matrices of edges, and the attention (N, C) on channels."""
    vertices: Moments | None
    edges: Moments | None
    focus: Tensor


def _graphs(student, teacher, valid, side, terms, attention, temperature, centered, pooled, window_size) -> _Graphs:
    images = max(len(student), 1)

    def compare(student, teacher, valid, gram):
        alike = 'spatial' not in attention
        weight = uniform_weight(teacher, valid) if alike else \
            spatial_attention(teacher, valid, temperature=temperature)  # (N, HW)
        options = dict(centered=centered, gram=gram, pooled=pooled)
        whole = partial(moments, teacher=teacher, weight=weight / images if pooled else weight, **options)
        if window_size is None or window_size >= max(teacher.shape[2:]):
            return whole(student)
        given = None if alike and valid is None else _largest_one(weight)
        student, means_s, share = means_beside(student, given, side=window_size)
        means_t = means_beside(teacher, given, side=window_size)[1]
        share = _sum_one(share) / images if pooled else _sum_one(share)  # (N, windows)
        return moments_within(whole(student), moments(means_s, means_t, share, **options))

    vertices = edges = None
    if set(terms) != {'vertex'}:
        student, coarse, coarse_valid = coarsen_beside(student, valid, side=side)
        edges = compare(coarse, coarsen(teacher, valid, side=side)[0], coarse_valid, gram=True)
    if 'vertex' in terms:
        vertices = compare(student, teacher, valid, gram=False) if edges is None or side > 1 else edges._replace(
            **{of: getattr(edges, of).diagonal(dim1=-2, dim2=-1) for of in ('student', 'teacher')})
    cross = (vertices or edges).cross
    if 'channel' in attention and set(terms) != {'spectral'}:
        focus = channel_attention(teacher, valid, temperature=temperature)
        focus = focus.sum(0, keepdim=True) / images if pooled else focus
    else:
        focus = torch.ones_like(cross)
    return _Graphs(vertices, edges, focus)


def _largest_one(weight: Tensor) -> Tensor:
    """(N, HW) in proportion, so that no gradient of a mean is too large for a map of half precision."""
    return weight / weight.amax(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


def _sum_one(weight: Tensor) -> Tensor:
    """(N, M) in proportion; all zero stays zero."""
    return weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


def _together(graphs: Sequence[_Graphs]) -> _Graphs:
    """One after another along the first axis."""
    vertices, edges, focus = zip(*graphs, strict=True)
    return _Graphs(*(None if x[0] is None else Moments(*map(torch.cat, zip(*x, strict=True)))
                     for x in (vertices, edges)), torch.cat(focus))


def _compare(graphs: _Graphs, terms, relational, spectral, affinity, num_eigenvectors) -> dict[str, Tensor]:
    """Term to (N,)."""
    losses = {}
    if 'vertex' in terms:
        m = graphs.vertices
        losses['vertex'] = vertex_loss(
            torch.where(m.student_alive, m.student, 1), torch.where(m.teacher_alive, m.teacher, 1),
            m.cross * m.student_alive, graphs.focus * m.teacher_alive)
    if 'edge' in terms or 'spectral' in terms:
        m, alive = graphs.edges, graphs.edges.teacher_alive
        graph_s, graph_t = correlation(m.student, alive & m.student_alive), correlation(m.teacher, alive)
    if 'edge' in terms:
        weight = graphs.focus * alive
        pair = weight.unsqueeze(-1) * weight.unsqueeze(-2)  # (N, C, C)
        losses['edge'] = edge_loss(graph_s, graph_t, pair * graph_t.abs() if relational else pair)
    if 'spectral' in terms:
        among = alive.unsqueeze(-1) & alive.unsqueeze(-2)  # (N, C, C)
        near_s, near_t = (to_affinity(g, affinity) * among for g in (graph_s, graph_t))
        values, vectors = smallest_eigenpairs(nontrivial_laplacian(near_t, alive), num_eigenvectors)
        losses['spectral'] = rayleigh_loss(normalized_laplacian(near_s), values, vectors) \
            if spectral == 'rayleigh' else subspace_loss(nontrivial_laplacian(near_s, alive), vectors)
    return losses


def _check_options(terms, attention, temperature, centered, spectral, affinity, window_size) -> None:
    for name, given, known in (('terms', terms, TERMS), ('attention', attention or (), ATTENTIONS),
                               ('spectral', (spectral,), SPECTRAL_MODES), ('affinity', (affinity,), AFFINITIES)):
        if isinstance(given, str):
            raise ValueError(f'{name} must be a sequence of names, got the string {given!r}: write ({given!r},)')
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f'{name} must be of {tuple(known)}, got {unknown}')
    check_temperature(temperature)
    if window_size is not None and not (isinstance(window_size, int) and window_size >= 2):
        raise ValueError(f'window_size must be a whole number of cells, at least 2, or None, got {window_size!r}')
    if window_size is not None and not centered:
        raise ValueError(f'centered=False, cosines, is of whole maps: window_size={window_size} takes cells '
                         'relative to the mean of their window; set window_size=None, or leave centered=True')
