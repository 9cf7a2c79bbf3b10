"""What maps and options must be to be used."""
from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

__all__ = ['check_at_least', 'check_maps', 'check_one_of', 'check_temperature']


def check_maps(student: Tensor, teacher: Tensor, valid: Tensor | None = None, *, channels: bool = True) -> None:
    """Of one shape (N, C, H, W), or of one but for C with ``channels=False``, and ``valid`` (N, H, W).

    Raises:
        ValueError: They are not.
    """
    shapes = [x.shape if channels else x.shape[:1] + x.shape[2:] for x in (student, teacher)]
    if not student.dim() == teacher.dim() == 4 or shapes[0] != shapes[1]:
        raise ValueError(f'student and teacher must be maps of one {"shape (N, C, H, W)" if channels else "N, H and W"}'
                         f', got {tuple(student.shape)} and {tuple(teacher.shape)}: a connector makes them equal')
    if valid is not None and valid.shape != (len(student), *student.shape[2:]):
        raise ValueError(f'valid must be (N, H, W) = {(len(student), *student.shape[2:])}, got {tuple(valid.shape)}')


def check_temperature(temperature: float) -> None:
    """Raises a ValueError unless the temperature is above 0."""
    if not temperature > 0:
        raise ValueError(f'temperature must be above 0, got {temperature}')


def check_one_of(known: Iterable, **options) -> None:
    """Raises a ValueError unless each option is one of those that are known."""
    known = tuple(known)
    for name, value in options.items():
        if value not in known:
            raise ValueError(f'{name} must be one of {known}, got {value!r}')


def check_at_least(least: float, **options: float | None) -> None:
    """Raises a ValueError unless each option that is given is that much or more."""
    for name, value in options.items():
        if value is not None and not value >= least:
            raise ValueError(f'{name} must be at least {least}, got {value}')
