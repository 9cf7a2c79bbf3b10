"""The classifier's head: global average pooling and one linear layer."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from .samples import ClsDataSample

__all__ = ['LinearHead']


@MODELS.register_module()
class LinearHead(BaseModule):
    """Logits from the mean over the last map's cells, trained by cross entropy.

    Args:
        in_channels (int): Of the last map.
        num_classes (int): K.
        init_cfg (dict | list, optional): As MMEngine has it.

    Raises:
        ValueError: There are no channels, or fewer than two classes.
    """

    def __init__(self, *, in_channels: int, num_classes: int, init_cfg: dict | list | None = None) -> None:
        if in_channels < 1 or num_classes < 2:
            raise ValueError('LinearHead: in_channels must be at least 1 and num_classes at least 2, got '
                             f'{in_channels} and {num_classes}')
        super().__init__(init_cfg or dict(type='Normal', layer='Linear', std=0.01))
        self.num_classes = num_classes
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Logits (N, K) from maps, of which the last counts: (N, C, H, W), or (N, C) where a neck has pooled it."""
        x = feats[-1]
        return self.fc(x if x.dim() == 2 else x.mean((2, 3)))

    def loss(self, feats: Sequence[Tensor], data_samples: Sequence[ClsDataSample]) -> dict[str, Tensor]:
        """``loss_cls``, the mean cross entropy."""
        labels = torch.cat([sample.gt_label for sample in data_samples])  # (N,)
        return dict(loss_cls=F.cross_entropy(self(feats), labels))

    def predict(self, feats: Sequence[Tensor],
                data_samples: Sequence[ClsDataSample] | None = None) -> list[ClsDataSample]:
        """The samples, or new ones, with ``pred_score`` (K,) and ``pred_label`` (1,)."""
        scores = self(feats).float().softmax(1)  # (N, K)
        samples = [ClsDataSample() for _ in scores] if data_samples is None else data_samples
        for sample, score in zip(samples, scores, strict=True):
            sample.pred_score, sample.pred_label = score, score.argmax(keepdim=True)
        return list(samples)
