"""LD: the distributions of box edges (Zheng et al., CVPR 2022)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..functional import ld_loss
from ..readings import Predictions
from .base import DistillLoss
from .checks import check_weights

__all__ = ['LDLoss']


@MODELS.register_module()
class LDLoss(DistillLoss):
    r"""Divergence of the distributions that GFL-like heads predict for the edges of a box.

    A sum over the locations that the student's head is to find an object at, each weighted by the student's own
    largest probability of a class.

    Args:
        loss_weight (float): Factor on the one term, ``bins``.
        temperature (float): :math:`\tau`.

    Raises:
        ValueError: An option is out of range.
    """

    same_shape = False
    needs = ('predictions',)

    def __init__(self, *, loss_weight: float = 0.25, temperature: float = 10.) -> None:
        super().__init__()
        self.weights = {'bins': loss_weight}
        check_weights(self)
        self.options = dict(temperature=temperature)
        nothing = torch.zeros(0, 4, 1)
        ld_loss(nothing, nothing, **self.options)  # an unknown option is an error now, not in training

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None, *, predictions: Predictions) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`; one value, for all levels.

        Raises:
            ValueError: The heads predict no such distributions, or not of as many bins.
        """
        bins = predictions.student_bins, predictions.teacher_bins
        if bins[0] is None or predictions.foreground is None:
            raise ValueError('LDLoss compares the distributions of box edges that heads such as GFLHead predict, and '
                             'student and teacher do not both have them, with one reg_max: choose another loss')
        student, teacher = (x[predictions.foreground] for x in bins)  # (P, 4, R + 1)
        weight = predictions.student.detach()[predictions.foreground].sigmoid().amax(1)  # (P,)
        return {'bins': [ld_loss(student, teacher, weight, **self.options)]}
