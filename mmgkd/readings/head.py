"""Reading a head by hooks on it."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from ..features import Call, capture_calls
from .kinds import READINGS

if TYPE_CHECKING:
    from ..teacher import Teacher

__all__ = ['HeadReader']


class HeadReader:
    """Reads heads; this one none.

    Args:
        student (nn.Module): The model that is trained.
        names (Sequence[str]): Of :data:`READINGS`.
    """

    kind = ''
    gives = tuple(READINGS)

    def __init__(self, student: nn.Module, names: Sequence[str]) -> None:
        self.student, self.names = student, names

    @classmethod
    def structure(cls, model: nn.Module) -> dict[str, object]:
        """What has to be alike in both networks for their predictions to be comparable row by row.

        Raises:
            ValueError: This head cannot be read.
        """
        return {}

    def watched(self) -> dict[nn.Module, str]:
        """Modules of the student whose calls are kept, and the names to keep them under."""
        return {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the calls inside the context."""
        with capture_calls(self.watched()) as self.calls:
            yield

    def called(self, name: str) -> list[Call]:
        """The calls that were kept under this name, in order."""
        return [call for call in self.calls if call.name == name]

    def read(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], teacher: Teacher,
             data_samples: Sequence) -> dict[str, NamedTuple]:
        """Name to reading; the student's gradient flows through ``predictions`` alone.

        Args:
            student_feats (Sequence[Tensor]): (N, C, H, W) of all levels.
            teacher_feats (Sequence[Tensor]): The same of the teacher, as it gave them.
            teacher (Teacher): With its head.
            data_samples (Sequence): One per image.
        """
        self.student_feats, self.teacher, self.data_samples = student_feats, teacher.detector, data_samples
        self.teacher_feats = teacher.head_inputs(teacher_feats) if self.names else teacher_feats
        return {name: getattr(self, name) for name in self.names}

    @cached_property
    def activation(self) -> str:
        """``softmax`` or ``sigmoid``."""
        return self.structure(self.student)['activation']
