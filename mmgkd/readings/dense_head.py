"""Of one-stage detectors."""
from __future__ import annotations

from functools import cached_property

import torch
from mmdet.models.dense_heads import AnchorFreeHead, GuidedAnchorHead, TOODHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from torch import Tensor, nn

from ..features import evaluating, valid_cells
from ..functional.precision import working_dtype
from ..rois import box_rois, instance_boxes, read_rois
from .head import HeadReader
from .kinds import InstanceLogits, Predictions, Proposals

__all__ = ['DenseHeadReader']

MAX_PROPOSALS = 100
"""Of a dense head, per image."""
DECODING = AnchorFreeHead
"""Dense heads whose output in training is not what their ``predict_by_feat`` takes."""


class DenseHeadReader(HeadReader):
    """Of one-stage detectors: rows are all locations of all levels, and all boxes of a location."""

    kind = 'a dense head'

    @classmethod
    def structure(cls, model: nn.Module) -> dict[str, object]:
        """See :class:`HeadReader`."""
        head = model.bbox_head
        if not isinstance(head, BaseDenseHead) or not hasattr(head, 'cls_out_channels') \
                or isinstance(head, GuidedAnchorHead):  # in evaluation it skips locations
            raise ValueError(f'{type(head).__name__} does not give whole maps of class logits per level')
        priors = getattr(head, 'square_anchor_generator', None) or head.prior_generator  # the former SABL's
        return {'classes': head.num_classes,
                'activation': 'sigmoid' if head.cls_out_channels == head.num_classes else 'softmax',
                'strides': [tuple(stride) for stride in priors.strides],
                'boxes per location': list(priors.num_base_priors)}

    def watched(self) -> dict[nn.Module, str]:
        """See :class:`HeadReader`."""
        head = self.student.bbox_head
        return {head: 'head'} | {m: 'loss' for name, m in head.named_children() if name.endswith('loss_cls')}

    @cached_property
    def output(self) -> tuple:
        """What the student's head gave."""
        return self.called('head')[-1].output

    @cached_property
    def teacher_output(self) -> tuple:
        """What the teacher's head gives."""
        with torch.no_grad():
            return self.teacher.bbox_head(self.teacher_feats)

    @cached_property
    def logit_maps(self) -> tuple[list[Tensor], list[Tensor]]:
        """(N, A * K, H, W) per level of the student, and of the teacher."""
        student, teacher = (_logit_maps(model.bbox_head, output) for model, output in (
            (self.student, self.output), (self.teacher, self.teacher_output)))
        shapes = [[tuple(x.shape) for x in maps] for maps in (student, teacher)]
        if shapes[0] != shapes[1] or any(shape[1] % self.student.bbox_head.cls_out_channels for shape in shapes[0]):
            raise ValueError(f'the maps of class logits must be (N, A * K, H, W) per level, alike in both networks, '
                             f'got\n  student: {shapes[0]}\n  teacher: {shapes[1]}')
        return student, teacher

    @cached_property
    def predictions(self) -> Predictions:
        """All locations."""
        head, other = self.student.bbox_head, self.teacher.bbox_head
        student, teacher = (torch.cat([_rows(x, head.cls_out_channels) for x in maps]) for maps in self.logit_maps)
        labels = self._labels(student)
        bins = [None, None]
        if (edges := getattr(head, 'reg_max', None)) and edges == getattr(other, 'reg_max', None):
            bins = [torch.cat([_rows(x, 4 * (edges + 1)) for x in output[1]]).unflatten(1, (4, -1))
                    for output in (self.output, self.teacher_output)]  # (M, 4, R + 1)
        return Predictions(
            student, teacher, self.activation, labels=labels,
            foreground=None if labels is None else labels < head.num_classes,
            confidence=self._confidence(teacher), student_bins=bins[0], teacher_bins=bins[1])

    @property
    def _lengths(self) -> list[int]:
        """Rows of each level."""
        return [x.numel() // self.student.bbox_head.cls_out_channels for x in self.logit_maps[0]]

    def _labels(self, rows: Tensor) -> Tensor | None:
        """(M,) labels, if the student's loss has been given them in the order of the rows (M, K)."""
        given = [call.args[:2] for call in self.called('loss')]  # logits and targets
        labels = [y[0] if isinstance(y, (tuple, list)) else y for *_, y in given]
        if not labels or not all(isinstance(y, Tensor) and y.dtype == torch.int64 and y.dim() == 1 for y in labels):
            return None
        if [len(y) for y in labels] == self._lengths:
            return torch.cat(labels)
        logits = given[-1][0]  # of all levels at once
        same = logits.shape == rows.shape and torch.allclose(logits, rows.to(logits), 0, 0, equal_nan=True)
        return labels[-1] if same else None  # not so where half precision has overflowed: a loss scaler skips that

    def _confidence(self, teacher: Tensor) -> Tensor:
        """(M,) of (M, K), see :class:`Predictions`."""
        classes = self.student.bbox_head.num_classes
        found = teacher.amax(1).sigmoid() if self.activation == 'sigmoid' else teacher.softmax(1)[:, :classes].amax(1)
        masks = valid_cells(self.logit_maps[0], self.data_samples)  # (N, H, W) each
        return found * torch.cat([
            found.new_ones(rows) if mask is None else mask.flatten().repeat_interleave(rows // mask.numel())
            for mask, rows in zip(masks, self._lengths, strict=True)])

    @cached_property
    def proposals(self) -> Proposals:
        """The likeliest boxes of each image after suppression, however unlikely."""
        head = self.student.bbox_head
        config = ConfigDict(dict(nms_pre=1000, min_bbox_size=0, nms=dict(type='nms', iou_threshold=0.5))
                            | dict(head.test_cfg or {}) | dict(score_thr=0., max_per_img=MAX_PROPOSALS))
        with evaluating(head):
            # some decode in the head, and only when they predict
            output = head(self.student_feats) if isinstance(head, DECODING) else self.output
            found = head.predict_by_feat(*output, batch_img_metas=[s.metainfo for s in self.data_samples],
                                         cfg=config, rescale=False)
        found = [x[x.scores.argsort(descending=True)[:MAX_PROPOSALS]] for x in found]  # not every head obeys
        boxes = [get_box_tensor(x.bboxes) for x in found]
        return Proposals(boxes, [torch.ones(len(b), dtype=torch.bool, device=b.device) for b in boxes], None)

    @cached_property
    def instance_logits(self) -> InstanceLogits:
        """Means over a grid in each ground-truth box, at the level that fits it.

        Of several boxes of a location (anchors) the best of each class counts: their mean would be that of the
        anchors that do not fit.
        """
        channels = self.student.bbox_head.cls_out_channels
        boxes = [b for b, _ in instance_boxes(self.data_samples)]
        with torch.no_grad():
            best = [[x.unflatten(1, (-1, channels)).amax(1) for x in maps] for maps in self.logit_maps]
            logits = [read_rois(maps, box_rois(boxes), self.data_samples) for maps in best]  # (K, classes) each
        return InstanceLogits(*(list(x.split([len(b) for b in boxes])) for x in logits))


def _logit_maps(head: nn.Module, output: tuple) -> list[Tensor]:
    """(N, A * K, H, W) per level."""
    maps = output[0]
    if isinstance(head, TOODHead):  # it gives probabilities
        maps = [x.to(working_dtype(x)).logit(eps=1e-6) for x in maps]
    return list(maps)


def _rows(x: Tensor, channels: int) -> Tensor:
    """(N * H * W * A, channels) of (N, A * channels, H, W)."""
    return x.permute(0, 2, 3, 1).reshape(-1, channels)
