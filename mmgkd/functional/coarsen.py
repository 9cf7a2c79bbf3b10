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
    """The least side, a power of two, of squares of which at most ``max_cells`` cover a map.

    Whole squares are faster, and maps of images padded to multiples of 32 consist of them while side times stride is at
    most 32: with 2048 cells, up to two megapixels.

    Raises:
        ValueError: There are to be none.
    """
    if not max_cells >= 1:
        raise ValueError(f'max_cells must be at least 1, or None, got {max_cells}')
    side = 1
    while math.ceil(height / side) * math.ceil(width / side) > max_cells:
        side *= 2
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
    return coarsen_beside(feat, valid, side=side)[1:]


def coarsen_beside(feat: Tensor, valid: Tensor | None = None, *,
                   side: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The map itself, for one function to read, and what :func:`coarsen` returns.

    The gradient of the means is added into the gradient that this function returns for the map, because a second map
    costs more to allocate than all that is computed with it. So that function has to return a tensor that nobody else
    holds: not a view, nor one that it returns for another input too.
    """
    if side == 1:
        return feat, feat, valid
    feat, means, count = means_beside(feat, kept_cells(feat, valid) if valid is not None else None, side=side)
    return feat, means, count.view(-1, *means.shape[2:]) > 0 if valid is not None else None


def means_beside(feat: Tensor, weight: Tensor | None, *, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The map itself, as by :func:`coarsen_beside`, its weighted means over squares, and what the squares weigh.

    Args:
        feat (Tensor): (N, C, H, W) of any float type; receives a gradient.
        weight (Tensor, optional): (N, H * W) of cells, non-negative; all count 1 by default.
        side (int): Of a square, in cells.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The map; (N, C, H', W'), zero where a square weighs nothing; and (N, H' * W').
    """
    n, _, h, w = feat.shape
    keep = kept_cells(feat[:, :1], None) if weight is None else weight
    keep = keep.view(n, 1, h, w)
    total = _square_sums(keep, side, keep.dtype)  # (N, 1, H', W')
    feat, sums = _SquareSums.apply(feat, None if weight is None else keep, side, keep.dtype)
    return feat, sums / torch.where(total > 0, total, 1), total.flatten(1)


class _SquareSums(torch.autograd.Function):
    """A map, and the sums over the squares of its cells, times ``keep`` (N, 1, H, W) if given."""

    @staticmethod
    def forward(ctx, feat, keep, side, dtype):
        ctx.save_for_backward(keep)
        ctx.side, ctx.shape, ctx.dtype = side, feat.shape, feat.dtype
        ctx.set_materialize_grads(False)
        return feat.view_as(feat), _square_sums(feat, side, dtype, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, dsums):
        if dsums is None:
            return grad, None, None, None
        (n, c, h, w), side, dsums = ctx.shape, ctx.side, dsums.to(ctx.dtype)
        keep = None if ctx.saved_tensors[0] is None else ctx.saved_tensors[0].to(ctx.dtype)
        if grad is not None and grad.is_contiguous() and not (h % side or w % side):
            rows = grad.view(n, c, h // side, side, w)
            spread = dsums.unsqueeze(-1).expand(*dsums.shape, side).reshape(n, c, h // side, 1, w)  # along rows at once
            rows.add_(spread) if keep is None else rows.addcmul_(spread, keep.view(n, 1, h // side, side, w))
            return grad, None, None, None
        spread = F.interpolate(dsums, scale_factor=side, mode='nearest-exact')[..., :h, :w]  # nearest errs at side 41
        if grad is not None:
            return torch.add(grad, spread) if keep is None else torch.addcmul(grad, spread, keep), None, None, None
        return spread if keep is None else spread * keep, None, None, None


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
