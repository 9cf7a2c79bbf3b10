"""The geometric graph of Lassance et al.: how near the examples are to each other, in the student as in the teacher."""
from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_at_least, check_one_of
from .edges import check_nodes, match_edges, similarity_graph, teacher_knn_mask
from .graph import AFFINITIES
from .precision import float32_island

__all__ = ['CLASS_MASKS', 'geometric_graph_loss']

CLASS_MASKS = (None, 'intra', 'inter')


def geometric_graph_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None, labels: Tensor | None = None, *,
                         k: int | None = None, power: int = 1, rectify: str = 'relu',
                         class_mask: str | None = None) -> Tensor:
    r"""The squared Frobenius distance of two graphs, a sum over their edges and a mean over graphs.

    .. math:: L = \| A_T^p - A_S^p \|_F^2, \qquad A = M \odot D^{-1/2} W D^{-1/2}, \qquad
        W_{ij} = \max(0, \cos(x_i, x_j)), \quad W_{ii} = 0

    with D the degrees of W, and M the edges that count: those within or between classes, and those to the k nearest
    neighbours in the teacher's graph, which masks the student's too. Degrees are not computed anew for M. Lassance et
    al., "Deep geometric knowledge distillation with graphs" (ICASSP 2020).

    A is of spectral radius 1 and its squared norm near 1 for any number of nodes, so the sum does not depend on that
    number where a mean would shrink with its square. Invariant to a positive factor on each node, to a rotation of the
    features of either side, and to a permutation of the nodes of both. Two nodes tell nothing: their graph is constant.

    Two things are this project's. The paper's features are those after a ReLU, of which no cosine is negative; signed
    ones give negative degrees, hence ``rectify``, which changes nothing for the paper's. And degrees are clamped.

    Args:
        student (Tensor): (B, V, D), nodes of any float type; computed in float32, or float64 if given.
        teacher (Tensor): (B, V, D), D may differ; receives no gradient.
        valid (Tensor, optional): (B, V) bool, False where there is no node.
        labels (Tensor, optional): (B, V) classes, for ``class_mask``.
        k (int, optional): Nearest neighbours; all edges by default.
        power (int): p; above 1, diffusion over p steps is compared.
        rectify (str): ``relu``, ``abs`` or ``shift``, :math:`(1 + \cos) / 2`.
        class_mask (str, optional): ``intra`` or ``inter``: edges within or between classes only.

    Returns:
        Tensor: A scalar; zero with a gradient where there is no node.

    Raises:
        ValueError: Shapes differ, or an option is unknown or out of range.
    """
    check_nodes(student, teacher, valid)
    _check_options(labels, k, power, rectify, class_mask)
    with float32_island(student):
        graphs = [similarity_graph(x, valid, rectify=rectify, normalize='degree') for x in (student, teacher.detach())]
        if class_mask is not None:
            same = labels.unsqueeze(-1) == labels.unsqueeze(-2)  # (B, V, V)
            graphs = [graph.masked_fill(same if class_mask == 'inter' else ~same, 0) for graph in graphs]
        if k is not None:
            near = teacher_knn_mask(graphs[1], k)
            graphs = [graph.masked_fill(~near, 0) for graph in graphs]
        if power > 1:
            graphs = [torch.linalg.matrix_power(graph, power) for graph in graphs]
        return match_edges(*graphs).sum() / max(len(student), 1)


def _check_options(labels, k, power, rectify, class_mask) -> None:
    check_one_of(AFFINITIES, rectify=rectify)
    check_one_of(CLASS_MASKS, class_mask=class_mask)
    if class_mask is not None and labels is None:
        raise ValueError(f'class_mask={class_mask!r} needs the labels of nodes, and these nodes have none')
    check_at_least(1, k=k, power=power)
