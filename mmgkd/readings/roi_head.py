"""Of two-stage detectors."""
from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads import StandardRoIHead
from torch import Tensor, nn

from ..features import evaluating
from ..rois import box_rois, instance_boxes
from .head import HeadReader
from .kinds import InstanceLogits, Predictions, Proposals

__all__ = ['RoIHeadReader']


class RoIHeadReader(HeadReader):
    """Of two-stage detectors with one box head: rows are the RoIs that the student has sampled."""

    kind = 'a RoI head'

    @classmethod
    def structure(cls, model: nn.Module) -> dict[str, object]:
        """See :class:`HeadReader`."""
        head = getattr(model.roi_head, 'bbox_head', None)
        if isinstance(head, nn.ModuleList):
            raise ValueError(f'{type(model.roi_head).__name__} is a cascade of {len(head)} box heads, and only single '
                             'ones are read')
        if not isinstance(model.roi_head, StandardRoIHead) or head is None:
            raise ValueError(f'{type(model.roi_head).__name__} is no RoI head with a box head')
        if getattr(head, 'custom_activation', False) or getattr(head, 'num_instance', 1) != 1:
            raise ValueError(f'{type(head).__name__} with {type(head.loss_cls).__name__} gives no plain logits per '
                             'class')
        return dict(classes=head.num_classes,
                    activation='sigmoid' if getattr(head.loss_cls, 'use_sigmoid', False) else 'softmax')

    def watched(self) -> dict[nn.Module, str]:
        """See :class:`HeadReader`."""
        head = self.student.roi_head
        return {head.bbox_roi_extractor: 'extractor', head.bbox_head: 'head', head.bbox_head.loss_cls: 'loss'}

    @cached_property
    def trained(self) -> tuple[Tensor, Tensor, Tensor]:
        """(M, 5) RoIs, (M, K + 1) logits and (M,) labels of the last call of the box head.

        Earlier calls choose hard examples; calls of the extractor after it serve other heads.
        """
        last = max(i for i, call in enumerate(self.calls) if call.name == 'head')
        rois = [call for call in self.calls[:last] if call.name == 'extractor'][-1].args[1]
        losses = [call for call in self.calls[last:] if call.name == 'loss']  # none where there is no RoI
        labels = losses[-1].args[1] if losses else rois.new_zeros(0, dtype=torch.int64)
        return rois, self.calls[last].output[0], labels

    @cached_property
    def teacher_logits(self) -> Tensor:
        """(M, K + 1)."""
        with torch.no_grad():
            return _roi_logits(self.teacher, self.teacher_feats, self.trained[0])

    @cached_property
    def comparable(self) -> bool:
        """Whether the teacher's head predicts the same of the same rows."""
        try:
            return hasattr(self.teacher, 'roi_head') and self.structure(self.teacher) == self.structure(self.student)
        except ValueError:
            return False

    @cached_property
    def predictions(self) -> Predictions:
        """All sampled RoIs."""
        rois, logits, labels = self.trained
        return Predictions(logits, self.teacher_logits, self.activation, labels=labels, rois=rois,
                           foreground=labels < self.student.roi_head.bbox_head.num_classes)

    @cached_property
    def proposals(self) -> Proposals:
        """All sampled RoIs, and what the teacher's head loses on them if it knows their classes."""
        rois, _, labels = self.trained
        counts = rois[:, 0].long().bincount(minlength=len(self.data_samples)).tolist()
        foreground = labels < self.student.roi_head.bbox_head.num_classes  # (M,)
        loss = _cross_entropy(self.teacher_logits, labels, self.activation) if self.comparable else None
        return Proposals(*(None if x is None else list(x.split(counts)) for x in (rois[:, 1:], foreground, loss)))

    @cached_property
    def instance_logits(self) -> InstanceLogits:
        """Each network's box head on the ground-truth boxes."""
        boxes = [b for b, _ in instance_boxes(self.data_samples)]
        with evaluating(self.student.roi_head):
            logits = [_roi_logits(model, feats, box_rois(boxes)) for model, feats in (
                (self.student, self.student_feats), (self.teacher, self.teacher_feats))]  # (K, classes + 1) each
        return InstanceLogits(*(list(x.split([len(b) for b in boxes])) for x in logits))


def _roi_logits(model: nn.Module, feats: Sequence[Tensor], rois: Tensor) -> Tensor:
    """(M, K + 1), by mmdet's own path from maps to scores, shared heads and all."""
    if not len(rois):
        return feats[0].new_zeros(0, model.roi_head.bbox_head.num_classes + 1)
    return model.roi_head._bbox_forward(feats, rois)['cls_score']


def _cross_entropy(logits: Tensor, labels: Tensor, activation: str) -> Tensor:
    """(M,), of labels (M,)."""
    if activation == 'softmax':
        return F.cross_entropy(logits.float(), labels, reduction='none')
    targets = F.one_hot(labels, logits.shape[1]).float()  # (M, K + 1)
    return F.binary_cross_entropy_with_logits(logits.float(), targets, reduction='none').sum(1)
