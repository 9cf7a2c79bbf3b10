"""RKD: distances between examples, and the angles between three of them."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .edges import MIN_NORM, check_nodes, match_edges, node_pairs, normalize_edges, similarity_graph
from .precision import float32_island, working_dtype

__all__ = ['TERMS', 'rkd_terms']

TERMS = ('distance', 'angle')


def rkd_terms(student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, terms: Sequence[str] = TERMS,
              unit_norm: bool = False, max_nodes: int = 128) -> dict[str, Tensor]:
    r"""The terms of RKD, each a mean over graphs.

    .. math::
        L_D = \frac{1}{V^2}\sum_{ij} h\big(d^S_{ij} / \bar d^S - d^T_{ij} / \bar d^T\big), \qquad
        L_A = \frac{1}{V^3}\sum_{abc} h\big(\cos\angle^S bac - \cos\angle^T bac\big)

    with :math:`d_{ij} = |x_i - x_j|`, :math:`\bar d` the mean of those above zero, :math:`\angle bac` the angle at a,
    zero where a side is, and h the Huber loss. Park et al., "Relational Knowledge Distillation" (CVPR 2019).
    Both are invariant to shifts, rotations and one factor on all nodes of either side.

    The cosines come from the distances, by :math:`2 d_{ab} d_{ac} \cos\angle bac = d_{ab}^2 + d_{ac}^2 - d_{bc}^2`:
    memory goes with :math:`V^2 + V^3`, whatever D is. ``max_nodes`` bounds the cube.

    Args:
        student (Tensor): (B, V, D), nodes of any float type; computed in float32, or float64 if given.
        teacher (Tensor): (B, V, D), D may differ; receives no gradient.
        valid (Tensor, optional): (B, V) bool, False where there is no node.
        terms (Sequence[str]): Which of ``distance`` and ``angle`` to compute.
        unit_norm (bool): Bring every node to length 1 first.
        max_nodes (int): The angles of more nodes are those of so many, evenly spread over them (this project's):
            128 take 8 MB for each of some six tensors, per graph.

    Returns:
        dict[str, Tensor]: Term to scalar; zero with a gradient where there is no node.

    Raises:
        ValueError: Shapes differ, or an option is unknown or out of range.
    """
    check_nodes(student, teacher, valid)
    if isinstance(terms, str) or (set(terms) - set(TERMS)):
        raise ValueError(f'terms must be a sequence of {TERMS}, got {terms!r}')
    if max_nodes < 3:
        raise ValueError(f'max_nodes must be at least 3, as an angle has three corners, got {max_nodes}')
    with float32_island(student):
        nodes = (student, teacher.detach())
        if unit_norm:
            nodes = map(_unit, nodes)
        graphs = [similarity_graph(x, valid, similarity='distance') for x in nodes]
        losses = {}
        if 'distance' in terms:
            pairs = None if valid is None else node_pairs(valid)
            losses['distance'] = match_edges(*(normalize_edges(d, 'mean') for d in graphs), pairs, metric='smooth_l1')
        if 'angle' in terms:
            if student.shape[1] > max_nodes:
                index = torch.linspace(0, student.shape[1] - 1, max_nodes, device=student.device).round().long()
                graphs = [d[:, index][..., index] for d in graphs]
                valid = None if valid is None else valid[:, index]
            triples = None if valid is None else valid[:, :, None, None] & node_pairs(valid).unsqueeze(1)
            losses['angle'] = match_edges(*map(_angles, graphs), triples, metric='smooth_l1')
        return {term: value.sum() / max(len(student), 1) for term, value in losses.items()}


def _angles(distances: Tensor) -> Tensor:
    """(B, V, V, V), cosines of the angles at the first of three nodes, from (B, V, V)."""
    squared, apart = distances.square(), distances > 0
    inverse = torch.where(apart, distances, 1).reciprocal() * apart
    beside = squared.unsqueeze(-1) + squared.unsqueeze(-2) - squared.unsqueeze(1)  # (B, a, b, c)
    return beside * (inverse.unsqueeze(-1) * inverse.unsqueeze(-2)) / 2


def _unit(nodes: Tensor) -> Tensor:
    """(B, V, D) of length 1; zero stays zero, without gradient."""
    nodes = nodes.to(working_dtype(nodes))
    squared = nodes.square().sum(-1, keepdim=True)
    some = squared > MIN_NORM ** 2
    return nodes * (torch.where(some, squared, 1).rsqrt() * some)
