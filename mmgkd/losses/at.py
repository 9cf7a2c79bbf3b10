"""AT: attention transfer, where the energy of a map lies (Zagoruyko and Komodakis, ICLR 2017)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor

from ..features import valid_cells
from ..functional import attention_transfer_loss
from .base import DistillLoss
from .checks import check_weights

__all__ = ['AttentionTransferLoss']


@MODELS.register_module()
class AttentionTransferLoss(DistillLoss):
    """Squared distance of the attention maps of student and teacher.

    See :func:`mmgkd.functional.attention_transfer_loss`, to which the options go. A sum over levels. Channels may
    differ: no connector is learned. Of maps of different sizes, the larger is averaged down.

    Args:
        loss_weight (float): Factor on the loss.
        power (float): Of the magnitudes that are summed over channels.
        reduction (str): ``mean`` over cells, or ``sum``, which is the same for maps of any size.

    Raises:
        ValueError: The weight is not above 0, the power is below 1, or there is no such reduction.
    """

    same_shape = False

    def __init__(self, *, loss_weight: float = 1000., power: float = 2., reduction: str = 'mean') -> None:
        super().__init__()
        self.weights = {'attention': loss_weight}
        check_weights(self)
        self.options = dict(power=power, reduction=reduction)
        nothing = torch.zeros(0, 1, 1, 1)
        attention_transfer_loss(nothing, nothing, **self.options)  # a wrong option is an error now, not in training

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        pairs = [_same_size(*pair) for pair in zip(student_feats, teacher_feats, strict=True)]
        masks = valid_cells([teacher for _, teacher in pairs], data_samples)
        return {'attention': [attention_transfer_loss(*pair, valid, **self.options)
                              for pair, valid in zip(pairs, masks, strict=True)]}


def _same_size(student: Tensor, teacher: Tensor) -> list[Tensor]:
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return [x if list(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)]
