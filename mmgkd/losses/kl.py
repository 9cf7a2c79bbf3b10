"""KD: the predictions of a student and a teacher (Hinton et al., NIPS workshop 2014)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..functional import kl_loss
from ..readings import Predictions
from .base import DistillLoss
from .checks import check_weights

__all__ = ['KLLoss']


@MODELS.register_module()
class KLLoss(DistillLoss):
    r""":math:`\tau^2\,\mathrm{KL}(p^T\,\|\,p^S)`, a mean over sampled RoIs, or images in classifiers.

    Of dense heads, nearly all of whose locations are background, it is a mean over all locations weighted by the
    teacher's largest probability of a class, so that background does not drown the objects; padding has no weight.
    That, and the binary form for sigmoid heads, are this project's, see :func:`mmgkd.functional.kl_loss`.

    Args:
        loss_weight (float): Factor on the one term, ``kl``.
        temperature (float): :math:`\tau`.

    Raises:
        ValueError: An option is out of range.
    """

    same_shape = False
    needs = ('predictions',)

    def __init__(self, *, loss_weight: float = 1., temperature: float = 1.) -> None:
        super().__init__()
        self.weights = {'kl': loss_weight}
        check_weights(self)
        self.options = dict(temperature=temperature)
        nothing = torch.zeros(0, 1)
        kl_loss(nothing, nothing, **self.options)  # an unknown option is an error now, not in training

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None, *, predictions: Predictions) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`; one value, for all rows."""
        return {'kl': [kl_loss(predictions.student, predictions.teacher, predictions.confidence,
                               activation=predictions.activation, **self.options)]}
