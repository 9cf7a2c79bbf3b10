"""Weighted sums over the cells of maps, without a map-sized temporary in memory or kept for the gradient."""
from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cells import runs
from .precision import float32_island

__all__ = ['cell_sum', 'squared_distance']


def cell_sum(feat: Tensor, weight: Tensor, *, magnitude: bool = False) -> Tensor:
    r""":math:`\sum_p \omega_p F_{cp}`, or :math:`\sum_p \omega_p |F_{cp}|`.

    Args:
        feat (Tensor): (N, C, H, W) of any float type; the sum is in the dtype of the weight.
        weight (Tensor): (N, H * W); receives no gradient.
        magnitude (bool): Sum magnitudes.

    Returns:
        Tensor: (N, C).
    """
    with float32_island(feat):
        return _CellSum.apply(feat, weight, magnitude)


def squared_distance(x: Tensor, y: Tensor, weight: Tensor, shift: Tensor | None = None) -> Tensor:
    r""":math:`\sum_p \omega_p (x_{cp} - y_{cp} + b_c)^2`.

    Args:
        x (Tensor): (N, C, H, W) of any float type; the sum is in the dtype of the weight.
        y (Tensor): (N, C, H, W); like ``x`` it receives a gradient unless detached.
        weight (Tensor): (N, H * W); receives no gradient.
        shift (Tensor, optional): (N, C), :math:`b`; zero by default.

    Returns:
        Tensor: (N, C).
    """
    with float32_island(x):
        return _SquaredDistance.apply(x, y, weight, None if shift is None else shift.to(weight.dtype))


class _CellSum(torch.autograd.Function):

    @staticmethod
    def forward(ctx, feat, weight, magnitude):
        ctx.save_for_backward(feat, weight)
        ctx.magnitude = magnitude
        total = weight.new_zeros(feat.shape[:2])  # (N, C)
        for _, (x,), w in runs(feat, weight=weight):
            total += ((x.abs() if magnitude else x) @ w.mT).squeeze(-1)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, dtotal):
        feat, weight = ctx.saved_tensors
        grad = feat.new_empty(*feat.shape[:2], weight.shape[1])  # (N, C, HW)
        for part, (x,), w in runs(feat, weight=weight):
            grad[..., part] = dtotal.unsqueeze(-1) * (x.sign().mul_(w) if ctx.magnitude else w)
        return grad.view(feat.shape), None, None


class _SquaredDistance(torch.autograd.Function):
    """Autograd would keep the difference of the maps, and its weighted copy."""

    @staticmethod
    def forward(ctx, x, y, weight, shift):
        ctx.save_for_backward(x, y, weight, shift)
        total = weight.new_zeros(x.shape[:2])  # (N, C)
        for _, difference, w in _differences(x, y, weight, shift):
            total += (difference * w).mul_(difference).sum(-1)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, dtotal):
        x, y, weight, shift = ctx.saved_tensors
        factor = 2 * dtotal.unsqueeze(-1)  # (N, C, 1)
        maps = [m.new_empty(*m.shape[:2], weight.shape[1]) if needed else None
                for m, needed in zip((x, y), ctx.needs_input_grad[:2], strict=True)]
        dshift = torch.zeros_like(shift) if ctx.needs_input_grad[3] else None
        for part, difference, w in _differences(x, y, weight, shift):
            grad = difference.mul_(w).mul_(factor)  # (N, C, P)
            if dshift is not None:
                dshift += grad.sum(-1)
            for out, sign in zip(maps, (1, -1), strict=True):
                if out is not None:
                    out[..., part] = sign * grad
        dx, dy = (None if out is None else out.view(x.shape) for out in maps)
        return dx, dy, None, dshift


def _differences(x, y, weight, shift):
    for part, (a, b), w in runs(x, y, weight=weight):
        yield part, a - b if shift is None else (a - b).add_(shift.unsqueeze(-1)), w
