"""A map (N, C, H, W) read as cells (N, C, H * W), a run at a time."""
from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

__all__ = ['CHUNK', 'runs']

CHUNK = 8192
"""Cells in a run: temporaries stay (N, C, CHUNK) however large the map is."""


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
