"""What losses need beside maps: the predictions of student and teacher, proposals, the logits of instances.

The student's head is read by hooks during its one forward pass; the teacher's runs without gradient on the teacher's
own maps, at the same RoIs, locations or images.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from mmengine.logging import print_log
from torch import nn

from .classifier_head import ClassifierReader
from .dense_head import DenseHeadReader
from .head import HeadReader
from .kinds import READINGS, InstanceLogits, Predictions, Proposals
from .roi_head import RoIHeadReader

__all__ = ['READINGS', 'InstanceLogits', 'Predictions', 'Proposals', 'check_heads', 'needed_readings', 'watch_head']

READERS = {'roi_head': RoIHeadReader, 'bbox_head': DenseHeadReader, 'head': ClassifierReader}
"""Part of a model to what reads it."""


def needed_readings(losses: Iterable[nn.Module]) -> list[str]:
    """What any of the losses needs.

    Raises:
        ValueError: There is no such reading.
    """
    names = set()
    for loss in losses:
        if unknown := sorted(set(loss.needs) - set(READINGS)):
            raise ValueError(f'{type(loss).__name__}: needs must be of {sorted(READINGS)}, got {unknown}')
        names.update(loss.needs)
    return sorted(names)


def check_heads(student: nn.Module, teacher: nn.Module, names: Sequence[str]) -> None:
    """Refuse heads that cannot be read, or not compared.

    Proposals are the student's own: a teacher whose head does not compare gives no loss on them, and that is all.

    Args:
        student (nn.Module): With its head.
        teacher (nn.Module): With its head.
        names (Sequence[str]): Of :data:`READINGS`; without any nothing is checked.

    Raises:
        ValueError: Says which head, and why not.
    """
    if not names:
        return
    reader, own = _structure(student, 'student')
    if missing := sorted(set(names) - set(reader.gives)):
        raise ValueError(f'distill_losses need {missing}, and {reader.kind}, which the student has, gives only '
                         f'{sorted(reader.gives)}: leave out the losses that need them')
    try:
        other, theirs = _structure(teacher, 'teacher')
        if other is not reader:
            raise ValueError(f'the student has {reader.kind}, the teacher {other.kind}')
        if different := [f'{what}: {own[what]} and {theirs[what]}' for what in own if own[what] != theirs[what]]:
            raise ValueError(f'the heads of student and teacher differ in {"; ".join(different)}')
    except ValueError as error:
        if set(names) - {'proposals'}:
            raise ValueError(f'distill_losses need {names}, for which the predictions of both networks are compared, '
                             f'but {error}. Take a teacher whose head is like the student\'s, or losses of maps '
                             'alone') from error
        print_log(f'teacher: it has no loss on the student\'s proposals, since {error}', 'current')


@contextmanager
def watch_head(student: nn.Module, names: Sequence[str]) -> Iterator[HeadReader]:
    """Hooks on the student's head for one forward pass; afterwards :meth:`HeadReader.read` gives the readings.

    Args:
        student (nn.Module): The model that is trained.
        names (Sequence[str]): Of :data:`READINGS`; without any there are no hooks.
    """
    reader = (_structure(student, 'student')[0] if names else HeadReader)(student, names)
    with reader.watching():
        yield reader


def _structure(model: nn.Module, role: str) -> tuple[type[HeadReader], dict[str, object]]:
    for part, reader in READERS.items():
        if getattr(model, part, None) is not None:
            try:
                return reader, reader.structure(model)
            except ValueError as error:
                raise ValueError(f'the {role}\'s {error}') from error
    raise ValueError(f'the {role}, a {type(model).__name__}, has none of '
                     f'{", ".join(reader.kind for reader in READERS.values())}')
