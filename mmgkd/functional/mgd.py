"""MGD: the teacher's map generated from a masked student's (Yang et al., ECCV 2022)."""
from __future__ import annotations

import torch
from torch import Tensor

from .cells import kept_cells
from .checks import check_maps
from .sums import squared_distance

__all__ = ['mgd_loss', 'mgd_mask']


def mgd_mask(feat: Tensor, valid: Tensor | None = None, *, ratio: float = 0.5) -> Tensor:
    """Which cells of a map are left to generate the teacher's from: each with probability ``1 - ratio``.

    It is drawn from torch's generator of the map's device, and depends on its seed and on N, H and W alone.

    Args:
        feat (Tensor): (N, C, H, W).
        valid (Tensor, optional): (N, H, W) bool, False on padding, which is never left.
        ratio (float): Share of the cells that are masked, from 0 to 1.

    Returns:
        Tensor: (N, 1, H, W) of ones and zeros, in the map's dtype.

    Raises:
        ValueError: The ratio is out of range.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f'ratio must be from 0 to 1, got {ratio}')
    n, _, h, w = feat.shape
    left = torch.rand(n, 1, h, w, device=feat.device) >= ratio  # in float32 whatever the map is: the same cells
    return (left if valid is None else left & valid.unsqueeze(1)).to(feat.dtype)


def mgd_loss(generated: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Squared distance of the generated map and the teacher's, a mean over images.

    .. math:: \frac{1}{N} \sum_i \|G(m_i S_i) - T_i\|_2^2

    with the mask :math:`m` of :func:`mgd_mask` and a generator :math:`G`. Source: MGD (Yang et al., ECCV 2022). It is
    a sum over channels and cells, so that it grows with the image; leaving padding out is this project's.

    Args:
        generated (Tensor): (N, C, H, W), any float type; computed in float32, or float64 if given.
        teacher (Tensor): (N, C, H, W), of the same shape; receives no gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.

    Returns:
        Tensor: A scalar; zero with a gradient for an empty batch.

    Raises:
        ValueError: Shapes differ.
    """
    check_maps(generated, teacher, valid)
    return squared_distance(generated, teacher.detach(), kept_cells(teacher, valid)).sum() / max(len(generated), 1)
