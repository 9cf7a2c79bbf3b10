"""What the losses check when they are made, and before they are used."""
from __future__ import annotations

from numbers import Real

from torch import nn

__all__ = ['check_prepared', 'check_weights']


def check_weights(loss: nn.Module) -> None:
    """Raises a ValueError unless each of its weights is a number of at least 0, and one above it."""
    if not all(isinstance(weight, Real) for weight in loss.weights.values()):
        raise ValueError(f'{type(loss).__name__}: weights must be numbers, got {loss.weights}; 0 leaves a term out')
    if not all(weight >= 0 for weight in loss.weights.values()) or not any(loss.weights.values()):
        raise ValueError(f'{type(loss).__name__}: weights must be at least 0, and one above it, got {loss.weights}')


def check_prepared(loss: nn.Module, levels: nn.ModuleList, feats) -> None:
    """Raises a RuntimeError unless there are learned parts for each level."""
    if len(levels) != len(feats):
        raise RuntimeError(f'{type(loss).__name__} has learned parts for {len(levels)} levels and got {len(feats)}: '
                           'prepare(student_shapes, teacher_shapes) makes them, which the Distiller calls')
