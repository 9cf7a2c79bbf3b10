"""Weighted second moments of a student's and a teacher's map, without a map-sized temporary."""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cells import runs
from .precision import float32_island

__all__ = ['Moments', 'moments', 'moments_within']

BLOCK = 64
"""Channels of a block on a CPU: of a Gram matrix, which is symmetric, no block above the diagonal is computed."""


SMOOTH = 1e-4
"""A channel with no more than this share of its variance within groups of cells counts as constant there: the rest is
a difference of two sums that are ten thousand times as large, and in float32 not known to a few percent."""


class Moments(NamedTuple):
    """Second moments of the channels of two maps; gradients flow to the student only.

    Attributes:
        student (Tensor): Gram matrix (N, C, C), or its diagonal (N, C) where only that was asked for; pooled ones
            have N = 1.
        teacher (Tensor): The same of the teacher.
        cross (Tensor): (N, C), each channel of the student with the same channel of the teacher.
        student_alive (Tensor): (N, C) bool, False where a channel does not vary by more than rounding.
        teacher_alive (Tensor): (N, C) bool.
    """
    student: Tensor
    teacher: Tensor
    cross: Tensor
    student_alive: Tensor
    teacher_alive: Tensor


def moments(student: Tensor, teacher: Tensor, weight: Tensor, *, centered: bool = True,
            gram: bool = True, pooled: bool = False) -> Moments:
    r"""Weighted moments of the channels of two maps.

    .. math::
        G_{ij} = \sum_p \omega_p (F_{ip} - \mu_i)(F_{jp} - \mu_j), \qquad \mu_i = \sum_p \omega_p F_{ip}

    for student and teacher, and the cross moments
    :math:`\sum_p \omega_p (S_{ip} - \mu^S_i)(T_{ip} - \mu^T_i)`. With ``centered=False`` every :math:`\mu` is
    zero (the literal inner product). Maps are centred before they are multiplied: the shorter
    :math:`\sum_p \omega_p F_{ip} F_{jp} - \mu_i\mu_j` cancels in float32 where means are large.

    Args:
        student (Tensor): (N, C, H, W) of any float type; the mathematics runs in the dtype of ``weight``.
        teacher (Tensor): (N, C, H, W); receives no gradient.
        weight (Tensor): (N, H * W), summing to one per image, or over the batch if ``pooled``; receives no gradient.
        centered (bool): Subtract the weighted mean of each channel.
        gram (bool): Whole Gram matrices; False gives their diagonals, at a fraction of the cost.
        pooled (bool): Moments of the cells of all images together instead of each image's.
    """
    with float32_island(student):
        return Moments(*_Moments.apply(student, teacher, weight, centered, gram, pooled))


def moments_within(whole: Moments, between: Moments) -> Moments:
    r"""Moments within groups of cells, of those of all cells and of those of the groups' means.

    By the law of total covariance,
    :math:`\sum_p \omega_p (x_p - \mu_{g(p)})(y_p - \nu_{g(p)}) = \mathrm{cov}(x, y) - \mathrm{cov}(\mu_g, \nu_g)`
    with weighted means :math:`\mu_g, \nu_g`, so no map of differences is made.

    Args:
        whole (Moments): Of the maps, centred.
        between (Moments): Of the means of groups, weighted by their cells' weights, centred.
    """
    found = [x - y for x, y in zip(whole[:3], between[:3], strict=True)]
    alive = [of & (_variance(inner) > SMOOTH * _variance(outer))
             for of, inner, outer in zip(whole[3:], found, whole, strict=False)]
    return Moments(*found, *alive)


class _Moments(torch.autograd.Function):
    """Autograd would keep a weighted and a centred copy of the map. The gradient needs neither: the weights sum
    to one, so the derivative through the mean vanishes, and with dG and dx for the gradients of the Gram matrix
    and of the cross moments, ``dS = weight * ((dG + dG^T) (S - mean_S) + dx (T - mean_T))``.
    """

    @staticmethod
    def forward(ctx, student, teacher, weight, centered, gram, pooled):
        mean_s, mean_t = _means(student, teacher, weight, centered, pooled)  # (N, C, 1)
        n, c = student.shape[:2]
        s2 = weight.new_zeros((n, c, c) if gram else (n, c))
        t2, cross = torch.zeros_like(s2), weight.new_zeros(n, c)
        for _, (s, t), root in runs(student, teacher, weight=weight.sqrt()):
            s, t = (s - mean_s).mul_(root), (t - mean_t).mul_(root)  # (N, C, P)
            cross += (s * t).sum(-1)
            for total, x in ((s2, s), (t2, t)):
                if gram:
                    _add_products(total, x)
                else:
                    total += x.square().sum(-1)
        if gram:
            s2, t2 = (x.tril() + x.tril(-1).mT for x in (s2, t2))
        if pooled:
            cross, s2, t2 = (x.sum(0, keepdim=True) for x in (cross, s2, t2))
        ctx.save_for_backward(student, teacher, weight, mean_s, mean_t)
        alive = _alive(s2, mean_s), _alive(t2, mean_t)
        ctx.mark_non_differentiable(t2, *alive)
        return s2, t2, cross, *alive

    @staticmethod
    @once_differentiable
    def backward(ctx, ds2, _dt2, dcross, *_):
        student, teacher, weight, mean_s, mean_t = ctx.saved_tensors
        gram = ds2.dim() == 3
        ds2 = ds2 + ds2.mT if gram else 2 * ds2.unsqueeze(-1)  # (N, C, C) or (N, C, 1)
        dcross = dcross.unsqueeze(-1)  # (N, C, 1)
        grad = student.new_empty(*student.shape[:2], weight.shape[1])  # (N, C, HW)
        with float32_island(student):
            for part, (s, t), w in runs(student, teacher, weight=weight):
                s, t = s - mean_s, t - mean_t  # (N, C, P)
                out = ds2 @ s if gram else ds2 * s
                grad[..., part] = out.addcmul_(dcross, t).mul_(w)
        return grad.view(student.shape), None, None, None, None, None


def _add_products(total, x):
    """Add to (N, C, C) what of ``x @ x.mT`` is on the diagonal and below it; what is above it is left undefined."""
    channels = x.shape[1]
    block = BLOCK if x.device.type == 'cpu' else channels  # elsewhere few launches matter more
    for start in range(0, channels, block):
        of = slice(start, start + block)
        total[:, start:, of] += x[:, start:] @ x[:, of].mT


def _alive(second, mean):
    """(N, C) whether a channel varies by more than 1e-5 of its own mean and 1e-7 of what channels do on average."""
    variance = _variance(second)
    rounding = torch.maximum(1e-10 * mean.squeeze(-1).square(), 1e-14 * variance.mean(-1, keepdim=True))
    return variance > rounding.clamp(min=1e-30)


def _means(student, teacher, weight, centered, pooled):
    """(N, C, 1), or (1, C, 1) if pooled, weighted means of both maps, or zeros."""
    means = weight.new_zeros(2, *student.shape[:2], 1)
    if centered:
        for _, pair, w in runs(student, teacher, weight=weight):
            for mean, x in zip(means, pair, strict=True):
                mean += x @ w.mT
    return means.sum(1, keepdim=True) if pooled else means


def _variance(second):
    """(N, C), of second moments (N, C, C) or (N, C)."""
    return second.diagonal(dim1=-2, dim2=-1) if second.dim() == 3 else second
