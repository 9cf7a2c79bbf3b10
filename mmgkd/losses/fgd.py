"""FGD: focal and global distillation (Yang et al., CVPR 2022)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from ..features import map_strides, valid_cells
from ..functional import box_mask, fgd_terms, kept_cells, masked_softmax
from ..functional.checks import check_maps
from .base import DistillLoss
from .checks import check_prepared, check_weights

__all__ = ['FGDLoss']


@MODELS.register_module()
class FGDLoss(DistillLoss):
    """Distances inside and outside the ground-truth boxes, of attentions, and of maps with their global context.

    See :func:`mmgkd.functional.fgd_terms`. A sum over levels. Two global context blocks per level are trained along,
    one on the student's maps and, as published, one on the teacher's; both add nothing at first. Boxes are scaled by
    the map's stride, not, as in the published code, by the image within it.

    Args:
        foreground_weight (float): Factor on the term; a term of weight 0 is not computed.
        background_weight (float): Factor on the term.
        attention_weight (float): Factor on the term.
        relation_weight (float): Factor on the term.
        temperature (float): Of the attentions.

    Raises:
        ValueError: A weight is negative, or all are zero; the temperature is not above 0.
    """

    def __init__(self, *, foreground_weight: float = 5e-5, background_weight: float = 2.5e-5,
                 attention_weight: float = 5e-5, relation_weight: float = 5e-7, temperature: float = 0.5) -> None:
        super().__init__()
        self.weights = dict(foreground=foreground_weight, background=background_weight, attention=attention_weight,
                            relation=relation_weight)
        check_weights(self)
        self.options = dict(terms=tuple(term for term, weight in self.weights.items() if weight),
                            temperature=temperature)
        nothing = torch.zeros(0, 1, 1, 1)
        fgd_terms(nothing, nothing, nothing[:, 0], **self.options)  # a wrong option is an error now, not in training
        self.contexts = nn.ModuleList()

    def prepare(self, student_shapes: Sequence[tuple[int, int, int]],
                teacher_shapes: Sequence[tuple[int, int, int]]) -> None:
        """See :class:`DistillLoss`."""
        if 'relation' in self.options['terms']:
            self.contexts = nn.ModuleList(
                nn.ModuleDict(dict(own=GlobalContext(c), other=GlobalContext(c))) for c, *_ in teacher_shapes)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`.

        Raises:
            ValueError: The samples have no boxes.
        """
        boxes = _boxes(data_samples)
        strides = map_strides(teacher_feats, data_samples) if boxes else [(1, 1)] * len(teacher_feats)
        contexts = [None] * len(teacher_feats)
        if 'relation' in self.options['terms']:
            check_prepared(self, self.contexts, teacher_feats)
            contexts = self.contexts
        losses = {term: [] for term in self.options['terms']}
        for student, teacher, valid, stride, context in zip(
                student_feats, teacher_feats, valid_cells(teacher_feats, data_samples), strides, contexts, strict=True):
            check_maps(student, teacher, valid)
            canvas = tuple(cells * pixels for cells, pixels in zip(teacher.shape[2:], stride, strict=True))
            shift = None if context is None else \
                context['own'](student, valid) - context['other'](teacher.detach(), valid)  # (N, C)
            values = fgd_terms(student, teacher, box_mask(boxes, teacher, canvas), valid, shift=shift, **self.options)
            for term, value in values.items():
                losses[term].append(value)
        return losses


class GlobalContext(nn.Module):
    """What the global context block of GCNet (Cao et al., ICCVW 2019) adds to each cell of a map; nothing at first.

    Args:
        channels (int): Of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.attend = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels))
        nn.init.kaiming_normal_(self.attend.weight, nonlinearity='relu')
        for zero in (self.attend.bias, self.transform[-1].weight, self.transform[-1].bias):
            nn.init.zeros_(zero)

    def forward(self, feat: Tensor, valid: Tensor | None = None) -> Tensor:
        """(N, C), from a map (N, C, H, W) and its mask (N, H, W)."""
        keep = kept_cells(feat, valid)  # (N, HW)
        share = masked_softmax(self.attend(feat).flatten(1).to(keep.dtype), keep > 0).to(feat.dtype)
        return self.transform((feat.flatten(2) @ share.unsqueeze(-1)).squeeze(-1))


def _boxes(data_samples: Sequence | None) -> list[Tensor]:
    """(K, 4) per image in pixels of the padded batch."""
    if data_samples is None or not all('gt_instances' in s and 'batch_input_shape' in s for s in data_samples):
        raise ValueError('FGDLoss needs data samples with gt_instances and batch_input_shape: it tells foreground from '
                         'background by the ground-truth boxes')
    return [get_box_tensor(sample.gt_instances.bboxes) for sample in data_samples]
