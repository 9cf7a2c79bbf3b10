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

    @abstractmethod
    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """Term to its values per level, each a scalar.

        Args:
            student_feats (Sequence[Tensor]): (N, C, H, W) per level, already of the teacher's shapes.
            teacher_feats (Sequence[Tensor]): (N, C, H, W) per level.
            data_samples (Sequence, optional): One per image: its extent within the batch, its boxes and labels.
        """
