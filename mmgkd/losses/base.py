"""What every distillation loss is to the distiller."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ['DistillLoss']


class DistillLoss(nn.Module, ABC):
    """A loss between the maps of a student and of a teacher.

    A subclass sets ``weights``, a factor for each of its terms, and returns every term unweighted from
    :meth:`forward`; the distiller multiplies and logs both.
    """

    weights: dict[str, float]

    same_shape = True
    """Whether :meth:`forward` compares maps cell by cell: a connector then gives the student's the teacher's shape."""

    needs: tuple[str, ...] = ()
    """What :meth:`forward` takes, by keyword, beside maps and samples: names of :data:`mmgkd.readings.READINGS`."""

    gradient_rule = 'none'
    """How its gradient is held below that of the student's own losses, one of :data:`mmgkd.gradient_rule.RULES`."""

    def prepare(self, student_shapes: Sequence[tuple[int, int, int]],
                teacher_shapes: Sequence[tuple[int, int, int]]) -> None:
        """Make the parts that are learned. The distiller calls it once, when the shapes are known.

        Args:
            student_shapes (Sequence[tuple]): (C, H, W) per level of the maps that :meth:`forward` will get, for a
                probe image.
            teacher_shapes (Sequence[tuple]): The same of the teacher.
        """

    def before_training(self, runner) -> None:
        """Whatever has to happen once before the first iteration; called by :class:`mmgkd.hooks.PrepareLossesHook`.

        Args:
            runner (Runner): MMEngine's, with its model, data loader and work folder.
        """

    @abstractmethod
    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None, **readings) -> dict[str, list[Tensor]]:
        """Term to its values per level, each a scalar.

        Args:
            student_feats (Sequence[Tensor]): (N, C, H, W) per level, of the teacher's shapes if ``same_shape``.
            teacher_feats (Sequence[Tensor]): (N, C, H, W) per level.
            data_samples (Sequence, optional): One per image: its extent within the batch, its boxes and labels.
            readings: What ``needs`` names.
        """
