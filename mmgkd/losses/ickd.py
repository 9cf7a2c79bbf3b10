"""ICKD: the correlations between the channels of a map (Liu et al., ICCV 2021)."""
from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import MODELS
from torch import Tensor

from ..features import valid_cells
from ..functional import ickd_loss
from .base import DistillLoss
from .checks import check_weights

__all__ = ['ICKDLoss']


@MODELS.register_module()
class ICKDLoss(DistillLoss):
    """Distance of two inter-channel correlation matrices whose rows have unit length.

    See :func:`mmgkd.functional.ickd_loss`. A sum over levels.

    Args:
        loss_weight (float): Factor on the loss.

    Raises:
        ValueError: The weight is not above 0.
    """

    def __init__(self, *, loss_weight: float = 0.02) -> None:
        super().__init__()
        self.weights = {'correlation': loss_weight}
        check_weights(self)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        return {'correlation': [ickd_loss(student, teacher, valid) for student, teacher, valid in zip(
            student_feats, teacher_feats, valid_cells(teacher_feats, data_samples), strict=True)]}
