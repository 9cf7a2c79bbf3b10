"""Rows of logits and what they say, shared by the losses that compare predictions."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .checks import check_temperature
from .precision import working_dtype

__all__ = ['ACTIVATIONS', 'check_logits', 'probabilities']

ACTIVATIONS = ('softmax', 'sigmoid')


def probabilities(logits: Tensor, temperature: float, activation: str) -> Tensor:
    """(M, K) probabilities of (M, K) logits divided by the temperature, in the working dtype."""
    scaled = logits.to(working_dtype(logits)) / temperature
    return F.softmax(scaled, 1) if activation == 'softmax' else scaled.sigmoid()


def check_logits(student: Tensor, teacher: Tensor, temperature: float, activation: str = 'softmax', *,
                 shape: str = '(M, K)') -> None:
    """Refuse logits that do not belong together, and options that mean nothing.

    Raises:
        ValueError: Shapes differ or are not ``shape``, the temperature is not positive, the activation is unknown.
    """
    if student.dim() != shape.count(',') + 1 or student.shape != teacher.shape:
        raise ValueError(f'student and teacher must be logits of one shape {shape}, got {tuple(student.shape)} and '
                         f'{tuple(teacher.shape)}')
    check_temperature(temperature)
    if activation not in ACTIVATIONS:
        raise ValueError(f'activation must be of {ACTIVATIONS}, got {activation!r}')
