"""Where, and in which channels, the teacher looks: the weights that guide the channel graph."""
from __future__ import annotations

import torch
from torch import Tensor

from .cells import runs
from .precision import float32_island, working_dtype

__all__ = ['channel_attention', 'spatial_attention', 'uniform_weight']


def uniform_weight(feat: Tensor, valid: Tensor | None = None) -> Tensor:
    """Equal weight for each valid cell.

    Args:
        feat (Tensor): (N, C, H, W); gives shape, device and dtype.
        valid (Tensor, optional): (N, H, W) bool, False on padding. ``None`` means that nothing is padded.

    Returns:
        Tensor: (N, H * W), summing to one per image (to zero for an image without a valid cell).
    """
    n, _, h, w = feat.shape
    if valid is None:
        return feat.new_full((n, h * w), 1 / (h * w), dtype=working_dtype(feat))
    keep = valid.reshape(n, h * w).to(working_dtype(feat))
    return keep / keep.sum(-1, keepdim=True).clamp(min=1)


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
        energy = torch.linalg.vector_norm(teacher, 1, dim=1, dtype=flat.dtype).flatten(1)  # (N, HW)
        logits = (_relative(energy, (energy * flat).sum(-1)) / temperature).masked_fill(flat == 0, -torch.inf)
        focus = logits.softmax(-1).masked_fill(flat == 0, 0)  # the mask again: nan without a valid cell
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
        weight = uniform_weight(teacher, valid)
        mean = weight.new_zeros(teacher.shape[:2])  # (N, C)
        for _, (t,), w in runs(teacher, weight=weight):
            mean += (t.abs() @ w.mT).squeeze(-1)
        return teacher.shape[1] * (_relative(mean, mean.mean(-1)) / temperature).softmax(-1)


def _relative(energy: Tensor, mean: Tensor) -> Tensor:
    """(N, M) energies as multiples of their mean (N,); all zero stays zero."""
    return energy / mean.unsqueeze(-1).clamp(min=torch.finfo(energy.dtype).tiny)
