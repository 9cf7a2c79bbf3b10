"""PKD: the correlation of each channel in student and teacher (Cao et al., NeurIPS 2022)."""
from __future__ import annotations

import torch
from torch import Tensor

from .cells import kept_cells
from .checks import check_maps
from .moments import moments
from .precision import float32_island

__all__ = ['pkd_loss']


def pkd_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Half the mean squared difference of two maps whose channels are standardised over the batch.

    .. math::
        \frac{1}{2 C n} \sum_{c,k} (\hat S_{ck} - \hat T_{ck})^2
        = \frac{n - 1}{n} \cdot \frac{1}{C} \sum_c (1 - r_c),
        \qquad \hat F_{ck} = \frac{F_{ck} - \mu_c}{\sigma_c}

    over the ``n`` cells k of all images together, :math:`\sigma` with ``n - 1`` in the denominator and :math:`r_c` the
    correlation of channel c. Source: PKD (Cao et al., NeurIPS 2022), whose standardised map is never made here: the
    right-hand side takes three sums per channel. It does not change under a positive affine map of each channel of
    either side, nor when the channels of both are permuted alike.

    Leaving padding out is this project's, and so is what happens to a channel that is constant: its standardised map
    is zero, and a student's gets no gradient, where the published code divides by 1e-6.

    Args:
        student (Tensor): (N, C, H, W), any float type; computed in float32, or float64 if given.
        teacher (Tensor): (N, C, H, W), of the same shape; receives no gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.

    Returns:
        Tensor: A scalar, from 0 to 2; zero with a gradient for an empty batch.

    Raises:
        ValueError: Shapes differ.
    """
    check_maps(student, teacher, valid)
    with float32_island(student):
        keep = kept_cells(teacher, valid)  # (N, HW)
        n = keep.sum().clamp(min=1)
        m = moments(student, teacher.detach(), keep / n, gram=False, pooled=True)
        variances = torch.stack([m.student, m.teacher])  # (2, 1, C)
        alive = torch.stack([m.student_alive, m.teacher_alive])
        r = m.cross * torch.where(alive, variances, 1).rsqrt().prod(0) * alive.all(0)  # (1, C)
        return (1 - 1 / n) * (alive.to(r.dtype).mean(0) - r).mean()
