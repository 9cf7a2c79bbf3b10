"""DIST: relations between and within classes (Huang et al., NeurIPS 2022)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..functional import dist_terms
from ..readings import Predictions
from .base import DistillLoss
from .checks import check_weights

__all__ = ['DISTLoss']


@MODELS.register_module()
class DISTLoss(DistillLoss):
    r"""One minus the correlation of predictions, over the classes of a row and over the rows of a class.

    The rows are images in classifiers, as published. For detectors, which the paper does not treat this way, they
    are the sampled RoIs, or of dense heads the locations that the student's head is to find an object at.

    Args:
        inter_weight (float): Factor on the term over the classes of a row, ``inter``.
        intra_weight (float): Factor on the term over the rows of a class, ``intra``.
        temperature (float): :math:`\tau` of the probabilities.

    Raises:
        ValueError: A weight is negative, or both are zero; the temperature is not positive.
    """

    same_shape = False
    needs = ('predictions',)

    def __init__(self, *, inter_weight: float = 2., intra_weight: float = 2., temperature: float = 1.) -> None:
        super().__init__()
        self.weights = {'inter': inter_weight, 'intra': intra_weight}
        check_weights(self)
        self.options = dict(temperature=temperature)
        nothing = torch.zeros(0, 1)
        dist_terms(nothing, nothing, **self.options)  # an unknown option is an error now, not in training

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None, *, predictions: Predictions) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`; one value of each term, for all rows.

        Raises:
            ValueError: Of a dense head it is not known which locations are to find an object.
        """
        student, teacher = predictions.student, predictions.teacher
        if predictions.confidence is not None:
            if predictions.foreground is None:
                raise ValueError('DISTLoss takes the locations of a dense head that are to find an object, but the '
                                 'student\'s does not show which it trains on which class: use KLLoss')
            student, teacher = student[predictions.foreground], teacher[predictions.foreground]
        terms = dist_terms(student, teacher, activation=predictions.activation, **self.options)
        return {term: [value] for term, value in terms.items()}
