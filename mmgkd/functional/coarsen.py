"""Maps of fewer cells: means over squares of them."""
from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cells import kept_cells

__all__ = ['coarsen', 'square_side']


def square_side(height: int, width: int, max_cells: int) -> int:
    """The least side of squares of which at most ``max_cells`` cover a map.

    Raises:
        ValueError: There are to be none.
    """
    if max_cells < 1:
        raise ValueError(f'max_cells must be at least 1, or None, got {max_cells}')
    side = max(1, math.isqrt(height * width // max_cells))
    while math.ceil(height / side) * math.ceil(width / side) > max_cells:
        side += 1
    return side


def coarsen(feat: Tensor, valid: Tensor | None = None, *, side: int) -> tuple[Tensor, Tensor | None]:
    """Means over squares of cells, in one pass over the map.

    Args:
        feat (Tensor): (N, C, H, W) of any float type; receives a gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding, which no mean contains.
        side (int): Of a square, in cells; those at the right and the lower edge are cut off there.

    Returns:
        tuple[Tensor, Tensor | None]: (N, C, ceil(H / side), ceil(W / side)), zero where a square is all padding,
        float32, or float64 if the map is; and (N, H', W') bool, where it is not, or ``None`` as given. With ``side=1``
        both are as given.
    """
    if side == 1:
        return feat, valid
    n, _, h, w = feat.shape
    keep = kept_cells(feat[:, :1] if valid is not None else feat[:1, :1], valid).view(-1, 1, h, w)
    count = _square_sums(keep, side, keep.dtype)  # (N or 1, 1, H', W')
    means = _SquareSums.apply(feat, keep if valid is not None else None, side, keep.dtype) / count.clamp(min=1)
    return means, count.squeeze(1) > 0 if valid is not None else None


class _SquareSums(torch.autograd.Function):
    """Sums over the squares of a map's cells, times ``keep`` (N, 1, H, W) if given, of which nothing else is kept."""

    @staticmethod
    def forward(ctx, feat, keep, side, dtype):
        ctx.save_for_backward(keep)
        ctx.side, ctx.shape, ctx.dtype = side, feat.shape, feat.dtype
        return _square_sums(feat, side, dtype, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        keep, = ctx.saved_tensors
        grad = F.interpolate(grad.to(ctx.dtype), scale_factor=ctx.side, mode='nearest-exact')  # nearest errs at side 41
        grad = grad[..., :ctx.shape[2], :ctx.shape[3]]
        return grad if keep is None else grad * keep.to(ctx.dtype), None, None, None


def _square_sums(x: Tensor, side: int, dtype: torch.dtype, keep: Tensor | None = None) -> Tensor:
    """Rows first, then columns: sums of strided slices, several times as fast on CPUs as pooling."""
    rows = _nth(x, keep, 0, side).to(dtype, copy=True)
    for k in range(1, side):
        part = _nth(x, keep, k, side)
        rows[..., :part.shape[2], :] += part
    sums = rows[..., ::side].clone()
    for k in range(1, side):
        part = rows[..., k::side]
        sums[..., :part.shape[3]] += part
    return sums


def _nth(x: Tensor, keep: Tensor | None, k: int, side: int) -> Tensor:
    """Each row of so many, from row k on."""
    return x[..., k::side, :] if keep is None else x[..., k::side, :] * keep[..., k::side, :]
