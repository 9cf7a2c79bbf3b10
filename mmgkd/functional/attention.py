"""Where, and in which channels, a network looks: the weights that guide distillation."""
from __future__ import annotations

import torch
from torch import Tensor

from .cells import kept_cells, runs
from .precision import float32_island
from .sums import cell_sum

__all__ = ['channel_attention', 'channel_focus', 'masked_softmax', 'spatial_attention', 'spatial_focus',
           'uniform_weight']


def uniform_weight(feat: Tensor, valid: Tensor | None = None) -> Tensor:
    """Equal weight for each valid cell.

    Args:
        feat (Tensor): (N, C, H, W); gives shape, device and dtype.
        valid (Tensor, optional): (N, H, W) bool, False on padding. ``None`` means that nothing is padded.

    Returns:
        Tensor: (N, H * W), summing to one per image (to zero for an image without a valid cell).
    """
    keep = kept_cells(feat, valid)
    return keep / keep.sum(-1, keepdim=True).clamp(min=1)


def masked_softmax(logits: Tensor, keep: Tensor) -> Tensor:
    """Softmax over the last axis among the entries to keep, zero elsewhere and where there is none to keep.

    Args:
        logits (Tensor): (..., M).
        keep (Tensor): Bool, of a shape that broadcasts to that of the logits.
    """
    focus = logits.masked_fill(~keep, -torch.inf).softmax(-1)
    return focus.masked_fill(~keep, 0)  # the mask again: nan with none to keep


def spatial_focus(feat: Tensor, valid: Tensor | None = None, *, temperature: float = 0.5) -> Tensor:
    r"""The spatial attention of FBKD (Zhang and Ma, ICLR 2021) and FGD (Yang et al., CVPR 2022).

    .. math:: a_p = n\,\mathrm{softmax}_p\Big(\frac{1}{\tau C} \sum_c |F_{cp}|\Big)

    over the ``n`` cells without padding; leaving padding out is this project's.

    Args:
        feat (Tensor): (N, C, H, W); receives a gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        temperature (float): :math:`\tau`.

    Returns:
        Tensor: (N, H * W), mean one per image over the valid cells, zero on padding.
    """
    with float32_island(feat):
        keep = kept_cells(feat, valid)
        focus = masked_softmax(_energy(feat, keep) / (feat.shape[1] * temperature), keep > 0)
        return keep.sum(-1, keepdim=True) * focus


def channel_focus(feat: Tensor, valid: Tensor | None = None, *, temperature: float = 0.5) -> Tensor:
    r"""The channel attention of FGD (Yang et al., CVPR 2022).

    .. math:: a_c = C\,\mathrm{softmax}_c\Big(\frac{1}{\tau n} \sum_p |F_{cp}|\Big)

    Args:
        feat (Tensor): (N, C, H, W); receives a gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        temperature (float): :math:`\tau`.

    Returns:
        Tensor: (N, C), positive, mean one per image.
    """
    with float32_island(feat):
        mean = cell_sum(feat, uniform_weight(feat, valid), magnitude=True)  # (N, C)
        return feat.shape[1] * (mean / temperature).softmax(-1)


def spatial_attention(teacher: Tensor, valid: Tensor | None = None, *, temperature: float = 0.5,
                      uniform: float = 0.5) -> Tensor:
    r"""Weight of each cell, from the teacher's mean absolute activation.

    .. math:: \omega_p = \frac{u}{n} + (1-u)\,\mathrm{softmax}_p\Big(\frac{e_p}{\tau\,\bar e}\Big),
        \qquad e_p = \sum_c |F_{cp}|

    over the ``n`` valid cells, :math:`\bar e` the mean of :math:`e`. The softmax is that of FGD (Yang et al., CVPR
    2022). Two things are this project's: the division by the mean, so that the scale of a teacher's features does
    not decide how sharp its attention is, and the mixing with the uniform weight, so that no cell is ignored.

    Args:
        teacher (Tensor): (N, C, H, W).
        valid (Tensor, optional): (N, H, W) bool, False on padding. ``None`` means that nothing is padded.
        temperature (float): :math:`\tau`.
        uniform (float): :math:`u`, from 0 to 1.

    Returns:
        Tensor: (N, H * W), non-negative, summing to one per image (to zero for an image without a valid
        cell), without gradient.
    """
    with torch.no_grad(), float32_island(teacher):
        flat = uniform_weight(teacher, valid)  # (N, HW)
        energy = _energy(teacher, flat)
        focus = masked_softmax(_relative(energy, (energy * flat).sum(-1)) / temperature, flat > 0)
        return flat.lerp(focus, 1 - uniform)


def channel_attention(teacher: Tensor, valid: Tensor | None = None, *, temperature: float = 0.5) -> Tensor:
    r"""Weight of each channel, from the teacher's mean absolute activation over the valid cells.

    .. math:: w_c = C\,\mathrm{softmax}_c\Big(\frac{e_c}{\tau\,\bar e}\Big), \qquad e_c = \sum_p |F_{cp}|

    Source: FGD (Yang et al., CVPR 2022), but for the division by the mean :math:`\bar e`, which is this project's:
    without it, one strong channel of a teacher with large features takes nearly all of the weight.

    Args:
        teacher (Tensor): (N, C, H, W).
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        temperature (float): :math:`\tau`.

    Returns:
        Tensor: (N, C), positive, mean one per image, without gradient.
    """
    with torch.no_grad(), float32_island(teacher):
        mean = cell_sum(teacher, uniform_weight(teacher, valid), magnitude=True)  # (N, C)
        return teacher.shape[1] * (_relative(mean, mean.mean(-1)) / temperature).softmax(-1)


def _energy(feat: Tensor, weight: Tensor) -> Tensor:
    """(N, HW) sums of magnitudes over channels; the weight gives the dtype."""
    if torch.is_grad_enabled() and feat.requires_grad:  # four times slower, and keeps nothing but the map
        return torch.linalg.vector_norm(feat, 1, dim=1, dtype=weight.dtype).flatten(1)
    return torch.cat([x.abs().sum(1) for _, (x,), _ in runs(feat, weight=weight)], -1)


def _relative(energy: Tensor, mean: Tensor) -> Tensor:
    """(N, M) energies as multiples of their mean (N,); all zero stays zero."""
    return energy / mean.unsqueeze(-1).clamp(min=torch.finfo(energy.dtype).tiny)
