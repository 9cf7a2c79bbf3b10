"""What maps must be to be compared."""
from __future__ import annotations

from torch import Tensor

__all__ = ['check_maps', 'check_temperature']


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
