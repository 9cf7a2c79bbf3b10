"""FitNets: the maps themselves compared (Romero et al., ICLR 2015)."""
from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import MODELS
from torch import Tensor

from ..features import valid_cells
from ..functional import fitnet_loss
from .base import DistillLoss
from .checks import check_weights

__all__ = ['FitNetLoss']


@MODELS.register_module()
class FitNetLoss(DistillLoss):
    """Mean squared difference of student and teacher, or squared distance of the maps as unit vectors.

    See :func:`mmgkd.functional.fitnet_loss`, to which the options go. A sum over levels.

    Args:
        loss_weight (float): Factor on the loss.
        normalize (bool): Unit vectors (True), or the maps as they are (False).

    Raises:
        ValueError: The weight is not above 0.
    """

    def __init__(self, *, loss_weight: float = 1., normalize: bool = False) -> None:
        super().__init__()
        self.weights = {'distance': loss_weight}
        check_weights(self)
        self.options = dict(normalize=normalize)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        return {'distance': [fitnet_loss(student, teacher, valid, **self.options) for student, teacher, valid in zip(
            student_feats, teacher_feats, valid_cells(teacher_feats, data_samples), strict=True)]}
