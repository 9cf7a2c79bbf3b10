"""KD: the predictions of a student and a teacher compared row by row."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .logits import check_logits
from .precision import float32_island, working_dtype

__all__ = ['kl_loss']


def kl_loss(student: Tensor, teacher: Tensor, weight: Tensor | None = None, *, temperature: float = 1.,
            activation: str = 'softmax') -> Tensor:
    r"""Knowledge distillation.

    .. math:: \tau^2\,\frac{\sum_i w_i\,\mathrm{KL}(p^T_i\,\|\,p^S_i)}{\sum_i w_i},
        \qquad p_i = \mathrm{softmax}(l_i / \tau)

    Hinton et al., "Distilling the Knowledge in a Neural Network" (NIPS workshop 2014); the mean over rows without
    weights is theirs. For sigmoid heads, where each class is a question of its own, the divergence is the sum over
    classes of that between two Bernoulli distributions. That form and the weights are this project's.

    Zero when the logits are equal; does not change when the rows, or the classes, of both are permuted alike, nor,
    with softmax, when a row is shifted.

    Args:
        student (Tensor): (M, K) logits, any float type; computed in float32, or float64 if given.
        teacher (Tensor): (M, K); receives no gradient.
        weight (Tensor, optional): (M,), at least 0; receives no gradient.
        temperature (float): :math:`\tau`.
        activation (str): ``softmax`` or ``sigmoid``.

    Returns:
        Tensor: A scalar; zero with a gradient where there is no row, or none of weight.

    Raises:
        ValueError: Shapes differ, or an option is out of range.
    """
    check_logits(student, teacher, temperature, activation)
    if weight is not None and weight.shape != student.shape[:1]:
        raise ValueError(f'weight must be (M,) = {tuple(student.shape[:1])}, got {tuple(weight.shape)}')
    with float32_island(student):
        scaled, target = (x.to(working_dtype(student)) / temperature for x in (student, teacher.detach()))
        if activation == 'softmax':
            rows = F.kl_div(
                F.log_softmax(scaled, 1), F.log_softmax(target, 1), reduction='none', log_target=True).sum(1)  # (M,)
        else:  # cross entropy less entropy, equal to the last bit where the logits are
            p = target.sigmoid()
            rows = F.binary_cross_entropy_with_logits(scaled, p, reduction='none').sum(1) \
                - F.binary_cross_entropy_with_logits(target, p, reduction='none').sum(1)  # (M,)
        rows = temperature ** 2 * rows
        if weight is None:
            return rows.sum() / max(len(rows), 1)
        weight = weight.detach().to(rows.dtype)
        return (weight * rows).sum() / weight.sum().clamp(min=torch.finfo(rows.dtype).tiny)
