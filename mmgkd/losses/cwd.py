"""CWD: each channel as a distribution over cells (Shu et al., ICCV 2021)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..features import valid_cells
from ..functional import cwd_loss
from .base import DistillLoss
from .checks import check_weights

__all__ = ['CWDLoss']


@MODELS.register_module()
class CWDLoss(DistillLoss):
    """Divergence of each channel's distribution over cells.

    See :func:`mmgkd.functional.cwd_loss`, to which the options go. A sum over levels.

    Args:
        loss_weight (float): Factor on the loss.
        temperature (float): Of the distributions.

    Raises:
        ValueError: The weight or the temperature is not above 0.
    """

    def __init__(self, *, loss_weight: float = 10., temperature: float = 1.) -> None:
        super().__init__()
        self.weights = {'divergence': loss_weight}
        check_weights(self)
        self.options = dict(temperature=temperature)
        nothing = torch.zeros(0, 1, 1, 1)
        cwd_loss(nothing, nothing, **self.options)  # a wrong option is an error now, not in training

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        return {'divergence': [cwd_loss(student, teacher, valid, **self.options) for student, teacher, valid in zip(
            student_feats, teacher_feats, valid_cells(teacher_feats, data_samples), strict=True)]}
