"""Of image classifiers."""
from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from ..features import capture_calls
from .head import HeadReader
from .kinds import InstanceLogits, Predictions

__all__ = ['ClassifierReader']


class ClassifierReader(HeadReader):
    """Of classifiers: rows are images."""

    kind = "a classifier's head"
    gives = ('predictions', 'instance_logits')

    @classmethod
    def structure(cls, model: nn.Module) -> dict[str, object]:
        """See :class:`HeadReader`."""
        head = model.head
        if not hasattr(_last_layer(head), 'out_features'):
            raise ValueError(f'{type(head).__name__} has no last layer fc')
        sigmoid = getattr(getattr(head, 'loss_module', None), 'use_sigmoid', False)
        return dict(classes=_last_layer(head).out_features, activation='sigmoid' if sigmoid else 'softmax')

    def watched(self) -> dict[nn.Module, str]:
        """See :class:`HeadReader`."""
        return {_last_layer(self.student.head): 'fc'}

    @cached_property
    def predictions(self) -> Predictions:
        """All images."""
        with torch.no_grad(), capture_calls({_last_layer(self.teacher.head): 'fc'}) as calls:
            self.teacher.head(self.teacher_feats)
        labels = [sample.get('gt_label') for sample in self.data_samples or ()]
        known = labels and all(isinstance(y, Tensor) and y.numel() == 1 for y in labels)
        labels = torch.cat([y.flatten() for y in labels]) if known else None
        return Predictions(
            self.called('fc')[-1].output, calls[-1].output, self.activation, labels=labels,
            foreground=None if labels is None else torch.ones_like(labels, dtype=torch.bool))

    @cached_property
    def instance_logits(self) -> InstanceLogits:
        """Each image is the one instance of itself."""
        return InstanceLogits(*(list(x.detach().split(1)) for x in self.predictions[:2]))


def _last_layer(head: nn.Module) -> nn.Module | None:
    """What gives the logits: ``fc``, or that of the last block where layers are stacked (mmpretrain's MobileNetV3)."""
    fc = getattr(head, 'fc', None)
    return getattr(fc, 'fc', fc)
