"""MHGD: how one depth of a network attends to the depth before it, as graphs over nodes.

"Graph-based Knowledge Distillation by Multi-head Attention Network" (Lee and Song, BMVC 2019). The learned layers are
the caller's; what stands here are functions of what these give.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_one_of
from .contrast import unit_rows
from .precision import float32_island, working_dtype

__all__ = ['REDUCTIONS', 'attend', 'attention_logits', 'graph_kl', 'keep_heads', 'vector_distance']

REDUCTIONS = ('mean', 'sum')


def attention_logits(query: Tensor, key: Tensor, num_heads: int) -> Tensor:
    r""":math:`S_{a,ij} = \langle\theta_a(v_i^B), \phi_a(v_j^F)\rangle`, not divided by :math:`\sqrt d`, as published.

    Row ``i`` tells which nodes of the front depth F explain node ``i`` of the back depth B.

    Args:
        query (Tensor): (V, A * d), :math:`\theta` of the back depth, head after head.
        key (Tensor): (V, A * d), :math:`\phi` of the front depth.
        num_heads (int): A.

    Returns:
        Tensor: (A, V, V).
    """
    with float32_island(query):
        query, key = (x.to(working_dtype(x)).unflatten(-1, (num_heads, -1)).transpose(0, 1) for x in (query, key))
        return query @ key.mT  # (A, V, d) each


def attend(logits: Tensor, values: Tensor, keep: Tensor | None = None) -> Tensor:
    r""":math:`R_i = \mathrm{concat}_a\big(m_{ai} \sum_j G_{a,ij} z_j\big)` with :math:`G = \mathrm{softmax}_j(S)`.

    Args:
        logits (Tensor): (A, V, V).
        values (Tensor): (V, d), the same for all heads.
        keep (Tensor, optional): (A, V) bool, heads that are not dropped; the others count as 0, without rescaling.

    Returns:
        Tensor: (V, A * d).
    """
    with float32_island(logits):
        heads = logits.softmax(-1) @ values.to(logits)  # (A, V, d)
        if keep is not None:
            heads = heads * keep.unsqueeze(-1)
        return heads.transpose(0, 1).flatten(1)


def keep_heads(num_heads: int, num_nodes: int, *, device: torch.device | None = None) -> Tensor:
    """Drop about half of the heads of each node, at random: those whose normal noise is below its mean over heads.

    A single head is always kept; published, it would always be dropped.

    Returns:
        Tensor: (A, V) bool.
    """
    noise = torch.randn(num_heads, num_nodes, device=device)
    return noise >= noise.mean(0) if num_heads == 1 else noise > noise.mean(0)


def vector_distance(predicted: Tensor, target: Tensor) -> Tensor:
    r""":math:`\frac1V\sum_i \big(1 - \langle\hat v_i / \|\hat v_i\|, v_i\rangle\big)`: 0 where the directions agree.

    Args:
        predicted (Tensor): (V, C), of any length.
        target (Tensor): (V, C), unit vectors, without gradient.

    Returns:
        Tensor: A scalar; 0, with a gradient, for no node.
    """
    with float32_island(predicted):
        predicted = unit_rows(predicted.to(working_dtype(predicted)))
        return (1 - (predicted * target.detach().to(predicted)).sum(-1)).sum() / max(len(predicted), 1)


def graph_kl(student: Tensor, teacher: Tensor, *, tanh: bool = True, reduction: str = 'mean') -> Tensor:
    r"""How far the student's graphs are from the teacher's, for each head ``a`` and row ``i``.

    .. math:: \mathrm{KL}(G^S \| G^T) = \sum_j G^S_{a,ij} (\log G^S_{a,ij} - \log G^T_{a,ij}),
        \qquad G = \mathrm{softmax}_j(\tanh S)

    Zero for equal graphs, and invariant to permuting the nodes of both. The tanh, which bounds the ratio of two
    weights in a row by :math:`e^2`, stands in the authors' code and not on their poster.

    Args:
        student (Tensor): (A, V, V), :func:`attention_logits` of the student.
        teacher (Tensor): (A, V, V), of the teacher; receives no gradient.
        tanh (bool): As above, or softmax of S itself.
        reduction (str): ``mean`` over rows and heads, which is this project's, so that a weight holds for any number
            of nodes; or their ``sum``, as published.

    Returns:
        Tensor: A scalar; 0, with a gradient, for no node.

    Raises:
        ValueError: The shapes differ, or the reduction is unknown.
    """
    if student.shape != teacher.shape or student.dim() != 3:
        raise ValueError('student and teacher must be attention logits of one shape (A, V, V), got '
                         f'{tuple(student.shape)} and {tuple(teacher.shape)}')
    check_one_of(REDUCTIONS, reduction=reduction)
    with float32_island(student):
        logs = [x.to(working_dtype(student)) for x in (student, teacher.detach())]
        student, teacher = ((x.tanh() if tanh else x).log_softmax(-1) for x in logs)
        total = (student.exp() * (student - teacher)).sum()
        return total / max(1, student.shape[0] * student.shape[1]) if reduction == 'mean' else total
