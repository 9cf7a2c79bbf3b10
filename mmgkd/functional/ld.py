"""LD: where a student and a teacher see the edges of a box, as distributions."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .logits import check_logits
from .precision import float32_island, working_dtype

__all__ = ['ld_loss']


def ld_loss(student: Tensor, teacher: Tensor, weight: Tensor | None = None, *, temperature: float = 10.) -> Tensor:
    r"""Localisation distillation.

    .. math:: \frac14\sum_i w_i \sum_{e=1}^{4} \frac{\tau^2}{R+1}\,\mathrm{KL}(p^T_{ie}\,\|\,p^S_{ie}),
        \qquad p_{ie} = \mathrm{softmax}(b_{ie} / \tau)

    Zheng et al., "Localization Distillation for Dense Object Detection" (CVPR 2022), as mmdet reduces it: a mean
    over bins and edges, a sum over locations, not divided by their weights.

    Zero when the logits are equal; does not change when an edge's logits are shifted, nor when bins, edges or
    locations of both are permuted alike.

    Args:
        student (Tensor): (P, 4, R + 1) logits of an edge's distance, any float type; computed in float32, or float64
            if given.
        teacher (Tensor): (P, 4, R + 1); receives no gradient.
        weight (Tensor, optional): (P,), one by default; receives no gradient.
        temperature (float): :math:`\tau`.

    Returns:
        Tensor: A scalar; zero with a gradient where there is no location.

    Raises:
        ValueError: Shapes differ, or the temperature is not positive.
    """
    check_logits(student, teacher, temperature, shape='(P, 4, R + 1)')
    if weight is not None and weight.shape != student.shape[:1]:
        raise ValueError(f'weight must be (P,) = {tuple(student.shape[:1])}, got {tuple(weight.shape)}')
    with float32_island(student):
        log_p, log_q = (F.log_softmax(x.to(working_dtype(student)) / temperature, 2)
                        for x in (student, teacher.detach()))
        kl = F.kl_div(log_p, log_q, reduction='none', log_target=True).mean(2).sum(1)  # (P,)
        if weight is not None:
            kl = kl * weight.detach().to(kl.dtype)
        return temperature ** 2 * kl.sum() / 4
