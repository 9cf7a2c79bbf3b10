"""What a loss may need beside maps."""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ['READINGS', 'InstanceLogits', 'Predictions', 'Proposals']


class Predictions(NamedTuple):
    """What student and teacher predict for M rows: sampled RoIs, locations of all levels, or images.

    Locations are in the order of levels, then images, rows and columns of the map, and boxes of a cell.

    Attributes:
        student (Tensor): (M, K) logits.
        teacher (Tensor): (M, K) logits without gradient.
        activation (str): ``softmax`` or ``sigmoid``.
        labels (Tensor, optional): (M,) int64, the classes that the student is trained on, the background after the
            others; ``None`` where the student's loss does not show them.
        rois (Tensor, optional): (M, 5) of RoIs: index of the image, then x1, y1, x2, y2 in pixels of the batch.
        foreground (Tensor, optional): (M,) bool, whether the label is not the background.
        confidence (Tensor, optional): (M,) of locations: the teacher's largest probability of a class that is not
            the background, 0 on padding.
        student_bins (Tensor, optional): (M, 4, R + 1) of locations: logits of the distances of a box's edges, where
            both heads predict such distributions (GFL).
        teacher_bins (Tensor, optional): The same of the teacher.
    """
    student: Tensor
    teacher: Tensor
    activation: str
    labels: Tensor | None = None
    rois: Tensor | None = None
    foreground: Tensor | None = None
    confidence: Tensor | None = None
    student_bins: Tensor | None = None
    teacher_bins: Tensor | None = None


class Proposals(NamedTuple):
    """Boxes that the student itself looks at: its sampled RoIs, or the boxes that a dense head decodes.

    Attributes:
        boxes (list[Tensor]): (K, 4) per image, x1, y1, x2, y2 in pixels of the batch.
        foreground (list[Tensor]): (K,) bool per image; all of a dense head's.
        teacher_loss (list[Tensor], optional): (K,) per image, the cross entropies of the teacher's head; ``None``
            where it has none on them.
    """
    boxes: list[Tensor]
    foreground: list[Tensor]
    teacher_loss: list[Tensor] | None


class InstanceLogits(NamedTuple):
    """The logits of the ground-truth boxes, or of the image in classifiers, without gradient.

    Attributes:
        student (list[Tensor]): (K, classes) per image.
        teacher (list[Tensor]): The same.
    """
    student: list[Tensor]
    teacher: list[Tensor]


READINGS: dict[str, type] = {
    'predictions': Predictions, 'proposals': Proposals, 'instance_logits': InstanceLogits}
"""What a loss may name in its ``needs``, and what its ``forward`` is then given under that name."""
