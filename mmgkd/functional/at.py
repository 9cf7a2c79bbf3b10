"""AT: attention transfer, where the energy of a map lies (Zagoruyko and Komodakis, ICLR 2017)."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .cells import kept_cells
from .checks import check_at_least, check_maps, check_one_of
from .precision import float32_island, working_dtype

__all__ = ['REDUCTIONS', 'attention_transfer_loss']

REDUCTIONS = ('mean', 'sum')


def attention_transfer_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, power: float = 2.,
                            reduction: str = 'mean') -> Tensor:
    r"""Squared distance of two attention maps of unit length, a mean over images.

    .. math:: \frac{1}{N} \sum_i \Big\| \frac{Q(S_i)}{\|Q(S_i)\|_2} - \frac{Q(T_i)}{\|Q(T_i)\|_2} \Big\|_2^2,
        \qquad Q(F)_p = \frac{1}{C} \sum_c |F_{cp}|^q

    Source: Zagoruyko and Komodakis, ICLR 2017, section 3.1; squared, as their published code has it. It does not change
    under a positive factor on either map, nor when the channels of either are permuted or their signs change, and
    the two need not have equally many. An image has at most 2, whatever the size of its maps. The published code
    divides by the number of cells too, which ``reduction='mean'`` does: of detection's large maps next to nothing
    remains.

    Args:
        student (Tensor): (N, C_s, H, W), any float type; computed in float32, or float64 if given.
        teacher (Tensor): (N, C_t, H, W); receives no gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        power (float): :math:`q`, at least 1.
        reduction (str): Over the cells without padding, ``mean`` or ``sum``.

    Returns:
        Tensor: A scalar; zero with a gradient for an empty batch.

    Raises:
        ValueError: N, H or W differ, or an option is out of range.
    """
    check_maps(student, teacher, valid, channels=False)
    check_one_of(REDUCTIONS, reduction=reduction)
    check_at_least(1, power=power)
    with float32_island(student):
        keep = kept_cells(teacher, valid)  # (N, HW)
        maps = [F.normalize(_energy(x, power).masked_fill(keep == 0, 0)) for x in (student, teacher.detach())]
        value = (maps[0] - maps[1]).square().sum(-1)  # (N,)
        if reduction == 'mean':
            value = value / keep.sum(-1).clamp(min=1)
        return value.sum() / max(len(value), 1)


def _energy(feat: Tensor, power: float) -> Tensor:
    """(N, HW)."""
    norm = torch.linalg.vector_norm(feat, power, dim=1, dtype=working_dtype(feat)).flatten(1)
    return norm ** power / feat.shape[1]
