"""Contrast of embeddings: each is to find its counterpart among others."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checks import check_temperature
from .precision import float32_island, working_dtype

__all__ = ['info_nce', 'unit_rows']

EPS = 1e-12
SCORES = 2 ** 25
"""Scores held at once: anchors are taken so many at a time that anchors times negatives stay below it."""


def unit_rows(x: Tensor) -> Tensor:
    """Rows (N, D) of length one; a row shorter than 1e-12 becomes zero, and so does its gradient."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # (N, 1)
    return torch.where(length <= EPS, 0, x / length.clamp(min=EPS))  # nan stays nan


def info_nce(anchor: Tensor, positive: Tensor, negatives: Tensor, counts: Tensor | None = None, *,
             temperature: float = 0.07) -> Tensor:
    r"""InfoNCE of anchors against one positive each and negatives that they share, a mean over anchors.

    .. math:: -\log\frac{e^{a_i \cdot p_i/\tau}}{e^{a_i \cdot p_i/\tau} + \sum_m c_{im} e^{a_i \cdot n_m/\tau}}

    Source: CPC (van den Oord et al., 2018); over a memory as in Wu et al. (CVPR 2018). With :math:`M` negatives that
    tell nothing it is about :math:`\ln(M + 1)`, plus :math:`1/(2 D \tau^2)` for random unit vectors.

    Which of the negatives an anchor has is a matter of its counts :math:`c_{im}`, so that nothing of the size
    (N, M, D) is ever gathered: all anchors meet all negatives in one matrix product (N, Q), some rows at a time. The
    gradient, which only anchors receive, is found along with the value. So nothing of that size outlives the call
    either, and a memory may change before the backward pass.

    Args:
        anchor (Tensor): (N, D).
        positive (Tensor): (N, D); receives no gradient.
        negatives (Tensor): (Q, D); receive no gradient.
        counts (Tensor, optional): (N, Q), True for those that an anchor has, or how many times it has each; ``None``
            for all, once.
        temperature (float): :math:`\tau`.

    Returns:
        Tensor: A scalar; zero, with a gradient, without anchors, or without negatives.

    Raises:
        ValueError: Shapes do not agree, or the temperature is not above 0.
    """
    _check(anchor, positive, negatives, counts, temperature)
    dtype = working_dtype(anchor)
    with float32_island(anchor):
        return _InfoNCE.apply(anchor.to(dtype), positive.detach().to(dtype), negatives.detach().to(dtype),
                              counts, temperature)


class _InfoNCE(torch.autograd.Function):
    """With the shares :math:`q_{im}` that negatives have in the sum, the gradient of an anchor is
    :math:`(\\sum_m q_{im} n_m - \\sum_m q_{im}\\, p_i) / \\tau`.
    """

    @staticmethod
    def forward(ctx, anchor, positive, negatives, counts, temperature):
        loss, grad = anchor.new_zeros(()), torch.zeros_like(anchor)
        rows = max(SCORES // max(len(negatives), 1), 1)
        for start in range(0, len(anchor), rows):
            part = slice(start, start + rows)
            a, p = anchor[part], positive[part]  # (R, D)
            true = (a * p).sum(-1) / temperature  # (R,)
            scores = a @ negatives.mT / temperature  # (R, Q)
            if counts is not None:
                c = counts[part]
                scores = scores.masked_fill_(~c, -torch.inf) if c.dtype == torch.bool else scores.add_(c.log())
            total = torch.logaddexp(true, scores.logsumexp(-1))  # (R,)
            shares = scores.sub_(total.unsqueeze(-1)).exp_()  # (R, Q)
            loss += (total - true).sum()
            grad[part] = (shares @ negatives - shares.sum(-1, keepdim=True) * p) / temperature
        ctx.save_for_backward(grad / max(len(anchor), 1))
        return loss / max(len(anchor), 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None, None, None, None


def _check(anchor, positive, negatives, counts, temperature) -> None:
    if anchor.dim() != 2 or anchor.shape != positive.shape or negatives.shape[1:] != anchor.shape[1:]:
        raise ValueError('anchors and positives must be (N, D) and negatives (Q, D), got '
                         f'{tuple(anchor.shape)}, {tuple(positive.shape)} and {tuple(negatives.shape)}')
    if counts is not None and counts.shape != (len(anchor), len(negatives)):
        raise ValueError(f'counts must be (N, Q) = {(len(anchor), len(negatives))}, got {tuple(counts.shape)}')
    check_temperature(temperature)
