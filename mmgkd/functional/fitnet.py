"""FitNets: the maps themselves compared (Romero et al., ICLR 2015)."""
from __future__ import annotations

import torch
from torch import Tensor

from .attention import uniform_weight
from .checks import check_maps
from .moments import moments
from .sums import squared_distance

__all__ = ['fitnet_loss']


def fitnet_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, normalize: bool = False) -> Tensor:
    r"""Mean squared difference of two maps, or squared distance of the maps as unit vectors.

    .. math:: \frac{1}{N} \sum_i \frac{1}{C n_i} \|S_i - T_i\|_2^2
        \qquad\text{or}\qquad
        \frac{1}{N} \sum_i \Big\| \frac{S_i}{\|S_i\|_2} - \frac{T_i}{\|T_i\|_2} \Big\|_2^2

    over images i, with :math:`n_i` cells without padding. The first is the hint loss of FitNets (Romero et al., ICLR
    2015, equation 3) as a mean. The second, the form that MMRazor gives it, does not change under a positive factor
    on either map and lies between 0 and 4.

    Args:
        student (Tensor): (N, C, H, W), any float type; computed in float32, or float64 if given.
        teacher (Tensor): (N, C, H, W), of the same shape; receives no gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        normalize (bool): The second form.

    Returns:
        Tensor: A scalar; zero with a gradient for an empty batch.

    Raises:
        ValueError: Shapes differ.
    """
    check_maps(student, teacher, valid)
    teacher = teacher.detach()
    weight = uniform_weight(teacher, valid)  # (N, HW)
    if not normalize:
        value = squared_distance(student, teacher, weight).mean(1)  # (N,)
        return value.sum() / max(len(value), 1)
    m = moments(student, teacher, weight, centered=False, gram=False)
    squared = torch.stack([m.student.sum(1), m.teacher.sum(1)])  # (2, N) squared lengths, but for a common factor
    alive = squared > torch.finfo(squared.dtype).tiny
    cosine = m.cross.sum(1) * torch.where(alive, squared, 1).rsqrt().prod(0) * alive.all(0)  # (N,)
    return (alive.sum(0) - 2 * cosine).sum() / max(len(cosine), 1)
