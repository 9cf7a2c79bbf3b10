"""Graphs of nearest neighbours, and a convolution on them."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import float32_island, working_dtype

__all__ = ['knn_graph', 'prediction_graph', 'tag_convolution']

MIN_PRODUCT = 1e-7
"""Products of two lengths are clamped to it."""


def knn_graph(points: Tensor, neighbours: int = 8) -> Tensor:
    r"""Each point and those nearest to it by cosine distance, as a matrix of zeros and ones.

    Row i has a one for each j of :math:`\mathrm{Nb}(i)`, the k points of the smallest distance
    :math:`1 - x_i \cdot x_j / \max(|x_i||x_j|, 10^{-7})`; the distance of a point to itself counts as -1, so it is
    always among them. The graph is not symmetric: every row has k ones, columns may have more or fewer.
    Invariant to a positive factor on each point.

    Args:
        points (Tensor): (N, D).
        neighbours (int): k, the point itself included; all where there are fewer points.

    Returns:
        Tensor: (N, N), without gradient.
    """
    with torch.no_grad(), float32_island(points):
        x = points.to(working_dtype(points))
        length = torch.linalg.vector_norm(x, dim=-1)  # (N,)
        cosine = x @ x.mT / (length.unsqueeze(-1) * length).clamp(min=MIN_PRODUCT)  # (N, N)
        eye = torch.eye(len(x), dtype=torch.bool, device=x.device)
        near = cosine.masked_fill(eye, 2).topk(min(neighbours, len(x)), sorted=False).indices  # (N, k)
        return torch.zeros_like(cosine).scatter_(1, near, 1)


def prediction_graph(logits: Tensor, neighbours: int = 8) -> Tensor:
    """:func:`knn_graph` of the class probabilities: the edges of HKD (Zhou et al., ICCV 2021).

    Args:
        logits (Tensor): (N, K).
        neighbours (int): See :func:`knn_graph`.

    Returns:
        Tensor: (N, N), without gradient.
    """
    return knn_graph(logits.detach().softmax(-1, dtype=working_dtype(logits)), neighbours)


def tag_convolution(x: Tensor, graph: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""One hop of a topology-adaptive graph convolution (Du et al., 2017), dense, without activation.

    .. math:: h_i = \Theta_0 x_i + \Theta_1 \frac{1}{|\mathrm{Nb}(i)|} \sum_{j \in \mathrm{Nb}(i)} x_j + b

    The published :math:`D^{-1/2} A D^{-1/2}`, D the in-degree, is this mean where every node has as many
    neighbours, as in :func:`knn_graph`.

    Args:
        x (Tensor): (N, D).
        graph (Tensor): (N, N), a one at (i, j) for each neighbour j of i.
        weight (Tensor): (D', 2 D), :math:`\Theta_0` beside :math:`\Theta_1`.
        bias (Tensor, optional): (D',).

    Returns:
        Tensor: (N, D').
    """
    with float32_island(x):
        around = graph @ x / graph.sum(-1, keepdim=True).clamp(min=1)  # (N, D)
        return F.linear(torch.cat([x, around], -1), weight, bias)
