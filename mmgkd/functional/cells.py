"""A map (N, C, H, W) read as cells (N, C, H * W): which of them count, and a run at a time."""
from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .precision import working_dtype

__all__ = ['CHUNK', 'kept_cells', 'runs']

CHUNK = 8192
"""Cells in a run: temporaries stay (N, C, CHUNK) however large the map is."""


def kept_cells(feat: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 for each cell that counts, 0 on padding.

    Args:
        feat (Tensor): (N, C, H, W); gives shape, device and dtype.
        valid (Tensor, optional): (N, H, W) bool, False on padding. ``None`` means that nothing is padded.

    Returns:
        Tensor: (N, H * W), float32, or float64 if the map is.
    """
    n, _, h, w = feat.shape
    if valid is None:
        return feat.new_ones(n, h * w, dtype=working_dtype(feat))
    return valid.reshape(n, h * w).to(working_dtype(feat))


def runs(*maps: Tensor, weight: Tensor) -> Iterator[tuple[slice, list[Tensor], Tensor]]:
    """Slices of at most ``CHUNK`` cells of each map, cast to the dtype of the weight.

    Args:
        maps (Tensor): (N, C, H, W) each.
        weight (Tensor): (N, H * W).

    Yields:
        tuple: The slice, the maps' cells (N, C, P) and the weight's (N, 1, P).
    """
    flat = [x.flatten(2) for x in maps]  # views, of contiguous and of channels_last maps
    for start in range(0, weight.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        yield part, [x[..., part].to(weight.dtype) for x in flat], weight[:, None, part]
