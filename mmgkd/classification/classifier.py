"""A classifier: backbone, neck if there is one, and head, laid out as mmpretrain's are."""
from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import MODELS
from mmengine.model import BaseModel
from torch import Tensor

from .samples import ClsDataSample

__all__ = ['Classifier']


@MODELS.register_module()
class Classifier(BaseModel):
    """Sorts images into classes.

    Args:
        backbone (dict): Gives a tuple of maps (N, C, H, W), one per stage.
        head (dict): Takes what neck or backbone gives; its ``in_channels`` are the backbone's last if it names none.
        neck (dict, optional): Takes the backbone's tuple.
        data_preprocessor (dict, optional): Such as MMEngine's ``ImgDataPreprocessor``, with mean and std.
        init_cfg (dict | list, optional): As MMEngine has it.
    """

    def __init__(self, *, backbone: dict, head: dict, neck: dict | None = None, data_preprocessor: dict | None = None,
                 init_cfg: dict | list | None = None) -> None:
        super().__init__(data_preprocessor, init_cfg)
        self.backbone = MODELS.build(backbone)
        if neck is not None:
            self.neck = MODELS.build(neck)
        elif 'in_channels' not in head and hasattr(self.backbone, 'out_channels'):
            head = dict(head, in_channels=self.backbone.out_channels[-1])
        self.head = MODELS.build(head)

    @property
    def with_neck(self) -> bool:
        """Whether it has a neck."""
        return hasattr(self, 'neck')

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """The maps of the backbone's stages, or what the neck makes of them, for images (N, 3, H, W)."""
        feats = self.backbone(inputs)
        return self.neck(feats) if self.with_neck else feats

    def loss(self, inputs: Tensor, data_samples: Sequence[ClsDataSample]) -> dict[str, Tensor]:
        """The head's losses.

        Args:
            inputs (Tensor): (N, 3, H, W), preprocessed.
            data_samples (Sequence): One per image, with ``gt_label``.
        """
        return self.head.loss(self.extract_feat(inputs), data_samples)

    def predict(self, inputs: Tensor, data_samples: Sequence[ClsDataSample] | None = None) -> list[ClsDataSample]:
        """One sample per image, with ``pred_score`` and ``pred_label``."""
        return self.head.predict(self.extract_feat(inputs), data_samples)

    def forward(self, inputs: Tensor, data_samples: Sequence[ClsDataSample] | None = None, mode: str = 'tensor'):
        """``mode`` is ``loss``, ``predict`` or ``tensor``, which gives logits (N, K).

        Raises:
            ValueError: ``mode`` is none of these.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        if mode == 'tensor':
            return self.head(self.extract_feat(inputs))
        raise ValueError(f"mode must be 'loss', 'predict' or 'tensor', got {mode!r}")
