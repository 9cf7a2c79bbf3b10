"""FBKD: attention-guided and non-local distillation (Zhang and Ma, ICLR 2021)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import spatial_focus
from .cells import kept_cells
from .precision import float32_island, working_dtype
from .sums import cell_sum, squared_distance

__all__ = ['euclidean_distance', 'mutual_focus', 'non_local', 'standardize_channels']


def mutual_focus(student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, temperature: float = 0.5) -> Tensor:
    """Where student and teacher look: the mean of the attentions :func:`spatial_focus` of both, without gradient.

    Args:
        student (Tensor): (N, C_s, H, W).
        teacher (Tensor): (N, C_t, H, W).
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        temperature (float): Of both.

    Returns:
        Tensor: (N, H * W), mean one per image over the valid cells, zero on padding.
    """
    with torch.no_grad():
        return sum(spatial_focus(x, valid, temperature=temperature) for x in (student, teacher)) / 2


def euclidean_distance(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    r""":math:`\sqrt{\sum_{i,c,p} \omega_{ip} (x_{icp} - y_{icp})^2}` over all images; where zero, so is its gradient.

    Args:
        x (Tensor): (N, C, H, W) of any float type; computed in the dtype of the weight.
        y (Tensor): (N, C, H, W); like ``x`` it receives a gradient unless detached.
        weight (Tensor): (N, H * W); receives no gradient.

    Returns:
        Tensor: A scalar.
    """
    squared = squared_distance(x, y, weight).sum()
    positive = squared > 0
    return torch.where(positive, squared, 1).sqrt() * positive


def non_local(query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None, *, stride: int = 1) -> Tensor:
    r"""Each cell as a mean of the values of all, weighted by the product of its query with their keys.

    .. math:: y_p = \frac{1}{M} \sum_{m=1}^{M} (q_p^\top k_m)\, v_m = \Big(\frac{1}{M} \sum_m v_m k_m^\top\Big) q_p

    over the ``M`` cells of the maps of keys and values after max pooling. Source: the dot-product form of non-local
    networks (Wang et al., CVPR 2018), as FBKD (Zhang and Ma, ICLR 2021) uses it. Without a softmax the sum can be taken
    first: the matrix of all pairs of cells is never made. Leaving padding out is this project's.

    Args:
        query (Tensor): (N, D, H, W), any float type; computed in float32, or float64 if given.
        key (Tensor): (N, D, H, W).
        value (Tensor): (N, D, H, W).
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        stride (int): Of the max pooling, and its window; at most the map.

    Returns:
        Tensor: (N, D, H, W).
    """
    with float32_island(query):
        dtype, window = working_dtype(query), [min(stride, side) for side in query.shape[2:]]
        alive = kept_cells(query, valid).view(len(query), 1, *query.shape[2:])
        lowest = torch.finfo(dtype).min
        key, value = (F.max_pool2d(x.to(dtype).masked_fill(alive == 0, lowest), window) for x in (key, value))
        alive = F.max_pool2d(alive, window)  # (N, 1, H', W')
        key, value = (x.masked_fill(alive == 0, 0).flatten(2) for x in (key, value))  # (N, D, M)
        mixing = value @ key.mT / alive.sum((2, 3)).clamp(min=1).unsqueeze(-1)  # (N, D, D)
        return (mixing @ query.to(dtype).flatten(2)).view(query.shape)


def standardize_channels(feat: Tensor, valid: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Each channel with mean zero and variance one over the valid cells of all images: batch norm in training.

    Args:
        feat (Tensor): (N, C, H, W), any float type; computed in float32, or float64 if given.
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        eps (float): Added to the variance.

    Returns:
        Tensor: (N, C, H, W).
    """
    with float32_island(feat):
        keep = kept_cells(feat, valid)
        weight = keep / keep.sum().clamp(min=1)
        mean, zero = cell_sum(feat, weight).sum(0), feat.new_zeros(()).expand_as(feat)  # (C,), (N, C, H, W)
        variance = squared_distance(feat, zero, weight, -mean.expand(feat.shape[:2])).sum(0)  # (C,)
        return (feat.to(weight.dtype) - mean[:, None, None]) * (variance + eps).rsqrt()[:, None, None]
