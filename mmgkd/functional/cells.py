"""A map (N, C, H, W) read as cells (N, C, H * W): which of them count, and a run at a time."""
from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from .precision import working_dtype

__all__ = ['kept_cells', 'run_length', 'runs']

CACHED = 2 ** 18
"""Numbers of a map in a run on a CPU: 1 MB of float32, which stays in a core's cache from one operation to the next."""
LAUNCHED = 2 ** 24
"""The same on other devices, where few launches matter and temporaries are to be small beside a model: 64 MB."""
SHORTEST = 64
"""Cells in a run at least: matrix products of fewer are slow."""


def run_length(feat: Tensor) -> int:
    """Cells of a map (N, C, H, W) to work on at a time: temporaries stay of that size however large the map is."""
    numbers = CACHED if feat.device.type == 'cpu' else LAUNCHED
    return max(SHORTEST, numbers // max(1, feat.shape[0] * feat.shape[1]))


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
    """Slices of at most :func:`run_length` cells of each map, cast to the dtype of the weight.

    Args:
        maps (Tensor): (N, C, H, W) each.
        weight (Tensor): (N, H * W).

    Yields:
        tuple: The slice, the maps' cells (N, C, P) and the weight's (N, 1, P).
    """
    flat = [x.flatten(2) for x in maps]  # views, of contiguous and of channels_last maps
    length = run_length(maps[0])
    for start in range(0, weight.shape[1], length):
        part = slice(start, start + length)
        yield part, [x[..., part].to(weight.dtype) for x in flat], weight[:, None, part]
