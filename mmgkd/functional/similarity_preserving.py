"""SP: which examples excite the same features."""
from __future__ import annotations

from torch import Tensor

from .edges import check_nodes, match_edges, node_pairs, similarity_graph
from .precision import float32_island

__all__ = ['similarity_preserving_loss']


def similarity_preserving_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""The mean squared difference of two similarity matrices, a mean over graphs.

    .. math:: L = \frac{1}{V^2}\|G_S - G_T\|_F^2, \qquad G_{i\cdot} = \tilde G_{i\cdot} / \|\tilde G_{i\cdot}\|_2,
        \qquad \tilde G = F F^\top

    Tung and Mori, "Similarity-Preserving Knowledge Distillation" (ICCV 2019). Invariant to a factor on all nodes
    and a rotation of the features of either side. Rows have length 1, so the value of unrelated features
    is of the order of 2 / V.

    Args:
        student (Tensor): (B, V, D), nodes of any float type; computed in float32, or float64 if given.
        teacher (Tensor): (B, V, D), D may differ; receives no gradient.
        valid (Tensor, optional): (B, V) bool, False where there is no node; V then counts the others.

    Returns:
        Tensor: A scalar; zero with a gradient where there is no node.

    Raises:
        ValueError: Shapes differ.
    """
    check_nodes(student, teacher, valid)
    with float32_island(student):
        graphs = [similarity_graph(x, valid, similarity='gram', normalize='row', loops=True)
                  for x in (student, teacher.detach())]
        value = match_edges(*graphs, None if valid is None else node_pairs(valid), metric='mse')
        return value.sum() / max(len(student), 1)
