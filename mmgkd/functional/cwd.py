"""CWD: each channel as a distribution over cells (Shu et al., ICCV 2021)."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cells import kept_cells, runs
from .checks import check_maps, check_temperature
from .precision import float32_island

__all__ = ['cwd_loss']


def cwd_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, temperature: float = 1.) -> Tensor:
    r"""Divergence of each channel's distribution over cells, a mean over images and channels.

    .. math:: \frac{\tau^2}{N C} \sum_{i,c} \mathrm{KL}\big(p(T_{ic}) \,\|\, p(S_{ic})\big), \qquad
        p(f) = \mathrm{softmax}_p(f_p / \tau)

    Source: CWD (Shu et al., ICCV 2021, equations 4 and 5). It does not change when a constant is added to a channel of
    either map. Leaving padding out of the softmax is this project's.

    Args:
        student (Tensor): (N, C, H, W), any float type; computed in float32, or float64 if given.
        teacher (Tensor): (N, C, H, W), of the same shape; receives no gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        temperature (float): :math:`\tau`.

    Returns:
        Tensor: A scalar; zero with a gradient for an empty batch.

    Raises:
        ValueError: Shapes differ, or the temperature is not above 0.
    """
    check_maps(student, teacher, valid)
    check_temperature(temperature)
    with float32_island(student):
        divergence = _Divergence.apply(student, teacher.detach(), kept_cells(teacher, valid), temperature)  # (N, C)
        return temperature ** 2 * divergence.sum() / max(divergence.numel(), 1)


class _Divergence(torch.autograd.Function):
    """Autograd would keep two map-sized distributions. The gradient is their difference over the temperature, and is
    made anew from the maps and the two normalisers of each channel."""

    @staticmethod
    def forward(ctx, student, teacher, keep, temperature):
        normalisers = _normalisers(student, teacher, keep, temperature)
        divergence = keep.new_zeros(student.shape[:2])  # (N, C)
        for _, (log_s, log_t), kept in _log_probabilities(student, teacher, keep, temperature, normalisers):
            divergence += (log_t.exp() * (log_t - log_s)).masked_fill_(~kept, 0).sum(-1)
        ctx.save_for_backward(student, teacher, keep, *normalisers)
        ctx.temperature = temperature
        return divergence

    @staticmethod
    @once_differentiable
    def backward(ctx, ddivergence):
        student, teacher, keep, *normalisers = ctx.saved_tensors
        factor = ddivergence.unsqueeze(-1) / ctx.temperature  # (N, C, 1)
        grad = student.new_empty(*student.shape[:2], keep.shape[1])  # (N, C, HW)
        for part, (log_s, log_t), kept in _log_probabilities(student, teacher, keep, ctx.temperature, normalisers):
            grad[..., part] = log_s.exp_().sub_(log_t.exp_()).mul_(factor).masked_fill_(~kept, 0)
        return grad.view(student.shape), None, None, None


def _normalisers(student, teacher, keep, temperature):
    """The highest logit of each map and channel (2, N, C, 1), and the logarithm of the sum of exponentials less it."""
    lowest = torch.finfo(keep.dtype).min
    highest, total = keep.new_full((2, *student.shape[:2], 1), lowest), keep.new_zeros(2, *student.shape[:2], 1)
    for _, logits, kept in runs(student, teacher, weight=keep):
        for i, x in enumerate(logits):
            x = (x / temperature).masked_fill_(kept == 0, lowest)  # (N, C, P)
            peak = torch.maximum(highest[i], x.amax(-1, keepdim=True))
            total[i] = total[i] * (highest[i] - peak).exp() + (x - peak).exp_().sum(-1, keepdim=True)
            highest[i] = peak
    return highest, total.log_()


def _log_probabilities(student, teacher, keep, temperature, normalisers):
    for part, logits, kept in runs(student, teacher, weight=keep):
        yield part, [(x / temperature).sub_(highest).sub_(log_total)  # not of their sum: a large offset cancels first
                     for x, highest, log_total in zip(logits, *normalisers, strict=True)], kept > 0
