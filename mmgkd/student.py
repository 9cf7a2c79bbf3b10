"""Preparing the student: what it inherits from the teacher before training."""
from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

__all__ = ['PARTS', 'inherit_weights', 'parse_inherit']

PARTS = ('backbone', 'neck', 'head')


def parse_inherit(inherit: str | None) -> tuple[str, ...]:
    """The parts that ``inherit`` names, such as ``'neck+head'``.

    Raises:
        ValueError: A part is unknown.
    """
    if inherit and not isinstance(inherit, str):
        raise ValueError(f"inherit must be text, such as 'neck+head', got {inherit!r}")
    parts = tuple(inherit.split('+')) if inherit else ()
    if unknown := [p for p in parts if p not in PARTS]:
        raise ValueError(f'inherit must be parts of {PARTS} joined by +, such as \'neck+head\', got {unknown}')
    return parts


def inherit_weights(student: nn.Module, teacher_weights: dict[str, Tensor], parts: tuple[str, ...]) -> int:
    """Copy every tensor of the parts that has the same name and shape in both.

    The inheriting strategy of FGD (Yang et al., CVPR 2022). Head means everything but backbone and neck.

    Args:
        student (nn.Module): The detector to fill.
        teacher_weights (dict[str, Tensor]): All weights of the teacher, heads included.
        parts (tuple[str, ...]): Of ``backbone``, ``neck``, ``head``.

    Returns:
        int: How many tensors were copied.

    Raises:
        ValueError: None fits.
    """
    wanted = {k: v for k, v in student.state_dict().items() if _part(k) in parts}
    fitting = [k for k, v in wanted.items() if k in teacher_weights and teacher_weights[k].shape == v.shape]
    if not fitting:
        raise ValueError(f'inherit={"+".join(parts)!r}: none of the student\'s {len(wanted)} tensors there has the '
                         'name and shape of one of the teacher\'s: they are of different families, leave inherit out')
    with torch.no_grad():
        for k in fitting:
            wanted[k].copy_(teacher_weights[k])
    print_log('student: inherited from the teacher, of tensors of the same name and shape: ' + '; '.join(
        _inherited(part, [k for k in wanted if _part(k) == part], fitting) for part in parts), 'current',
        logging.INFO if 4 * len(fitting) > 3 * len(wanted) else logging.WARNING)
    return len(fitting)


def _inherited(part: str, wanted: Sequence[str], fitting: Sequence[str]) -> str:
    left = [k for k in wanted if k not in fitting]
    named = f' (not {", ".join(left[:3])}{", ..." if len(left) > 3 else ""})' if left else ''
    return f'{len(wanted) - len(left)} of {len(wanted)} of the {part}{named}'


def _part(key: str) -> str:
    first = key.partition('.')[0]
    return first if first in ('backbone', 'neck') else 'head'
