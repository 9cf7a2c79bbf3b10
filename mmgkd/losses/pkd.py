"""PKD: the correlation of each channel in student and teacher (Cao et al., NeurIPS 2022)."""
from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import MODELS
from torch import Tensor

from ..features import valid_cells
from ..functional import pkd_loss
from .base import DistillLoss
from .checks import check_weights

__all__ = ['PKDLoss']


@MODELS.register_module()
class PKDLoss(DistillLoss):
    """Half the mean squared difference of maps whose channels are standardised over the batch.

    See :func:`mmgkd.functional.pkd_loss`. A sum over levels.

    Args:
        loss_weight (float): Factor on the loss.

    Raises:
        ValueError: The weight is not above 0.
    """

    def __init__(self, *, loss_weight: float = 6.) -> None:
        super().__init__()
        self.weights = {'correlation': loss_weight}
        check_weights(self)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        return {'correlation': [pkd_loss(student, teacher, valid) for student, teacher, valid in zip(
            student_feats, teacher_feats, valid_cells(teacher_feats, data_samples), strict=True)]}
