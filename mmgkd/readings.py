"""What losses need beside maps: the predictions of student and teacher, proposals, the logits of instances.

The student's head is read by hooks during its one forward pass; the teacher's runs without gradient on the teacher's
own maps, at the same RoIs, locations or images.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import AnchorFreeHead, GuidedAnchorHead, TOODHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from torch import Tensor, nn

from .features import Call, capture_calls, evaluating, valid_cells
from .functional.precision import working_dtype
from .nodes import box_rois, instance_boxes, read_rois

if TYPE_CHECKING:
    from .teacher import Teacher

__all__ = ['READINGS', 'InstanceLogits', 'Predictions', 'Proposals', 'check_heads', 'needed_readings', 'watch_head']


class Predictions(NamedTuple):
    """What student and teacher predict for M rows: sampled RoIs, locations of all levels, or images.

    Locations are in the order of levels, then images, rows and columns of the map, and boxes of a cell.

    Attributes:
        student (Tensor): (M, K) logits.
        teacher (Tensor): (M, K) logits without gradient.
        activation (str): ``softmax`` or ``sigmoid``.
        labels (Tensor, optional): (M,) int64, the classes that the student is trained on, the background after the
            others; ``None`` where the student's loss does not show them.
        rois (Tensor, optional): (M, 5) of RoIs: index of the image, then x1, y1, x2, y2 in pixels of the batch.
        foreground (Tensor, optional): (M,) bool, whether the label is not the background.
        confidence (Tensor, optional): (M,) of locations: the teacher's largest probability of a class that is not
            the background, 0 on padding.
        student_bins (Tensor, optional): (M, 4, R + 1) of locations: logits of the distances of a box's edges, where
            both heads predict such distributions (GFL).
        teacher_bins (Tensor, optional): The same of the teacher.
    """
    student: Tensor
    teacher: Tensor
    activation: str
    labels: Tensor | None = None
    rois: Tensor | None = None
    foreground: Tensor | None = None
    confidence: Tensor | None = None
    student_bins: Tensor | None = None
    teacher_bins: Tensor | None = None


class Proposals(NamedTuple):
    """Boxes that the student itself looks at: its sampled RoIs, or the boxes that a dense head decodes.

    Attributes:
        boxes (list[Tensor]): (K, 4) per image, x1, y1, x2, y2 in pixels of the batch.
        foreground (list[Tensor]): (K,) bool per image; all of a dense head's.
        teacher_loss (list[Tensor], optional): (K,) per image, the cross entropies of the teacher's head; ``None``
            where it has none on them.
    """
    boxes: list[Tensor]
    foreground: list[Tensor]
    teacher_loss: list[Tensor] | None


class InstanceLogits(NamedTuple):
    """The logits of the ground-truth boxes, or of the image in classifiers, without gradient.

    Attributes:
        student (list[Tensor]): (K, classes) per image.
        teacher (list[Tensor]): The same.
    """
    student: list[Tensor]
    teacher: list[Tensor]


READINGS: dict[str, type] = {
    'predictions': Predictions, 'proposals': Proposals, 'instance_logits': InstanceLogits}
"""What a loss may name in its ``needs``, and what its ``forward`` is then given under that name."""
MAX_PROPOSALS = 100
"""Of a dense head, per image."""
DECODING = AnchorFreeHead
"""Dense heads whose output in training is not what their ``predict_by_feat`` takes."""


class HeadReader:
    """Reads heads; this one none.

    Args:
        student (nn.Module): The model that is trained.
        names (Sequence[str]): Of :data:`READINGS`.
    """

    kind = ''
    gives = tuple(READINGS)

    def __init__(self, student: nn.Module, names: Sequence[str]) -> None:
        self.student, self.names = student, names

    @classmethod
    def structure(cls, model: nn.Module) -> dict[str, object]:
        """What has to be alike in both networks for their predictions to be comparable row by row.

        Raises:
            ValueError: This head cannot be read.
        """
        return {}

    def watched(self) -> dict[nn.Module, str]:
        """Modules of the student whose calls are kept, and the names to keep them under."""
        return {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep the calls inside the context."""
        with capture_calls(self.watched()) as self.calls:
            yield

    def called(self, name: str) -> list[Call]:
        """The calls that were kept under this name, in order."""
        return [call for call in self.calls if call.name == name]

    def read(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], teacher: Teacher,
             data_samples: Sequence) -> dict[str, NamedTuple]:
        """Name to reading; the student's gradient flows through ``predictions`` alone.

        Args:
            student_feats (Sequence[Tensor]): (N, C, H, W) of all levels.
            teacher_feats (Sequence[Tensor]): The same of the teacher, as it gave them.
            teacher (Teacher): With its head.
            data_samples (Sequence): One per image.
        """
        self.student_feats, self.teacher, self.data_samples = student_feats, teacher.detector, data_samples
        self.teacher_feats = teacher.head_inputs(teacher_feats) if self.names else teacher_feats
        return {name: getattr(self, name) for name in self.names}

    @cached_property
    def activation(self) -> str:
        """``softmax`` or ``sigmoid``."""
        return self.structure(self.student)['activation']

    @cached_property
    def comparable(self) -> bool:
        """Whether the teacher's head predicts the same of the same rows."""
        try:
            return _structure(self.teacher, 'teacher') == (type(self), self.structure(self.student))
        except ValueError:
            return False


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
        return labels[-1] if torch.equal(given[-1][0], rows) else None  # of all levels at once

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


class ClassifierReader(HeadReader):
    """Of classifiers: rows are images."""

    kind = "a classifier's head"
    gives = ('predictions', 'instance_logits')

    @classmethod
    def structure(cls, model: nn.Module) -> dict[str, object]:
        """See :class:`HeadReader`."""
        head = model.head
        if not isinstance(getattr(head, 'fc', None), nn.Module):
            raise ValueError(f'{type(head).__name__} has no last layer fc')
        sigmoid = getattr(getattr(head, 'loss_module', None), 'use_sigmoid', False)
        return dict(classes=head.fc.out_features, activation='sigmoid' if sigmoid else 'softmax')

    def watched(self) -> dict[nn.Module, str]:
        """See :class:`HeadReader`."""
        return {self.student.head.fc: 'fc'}

    @cached_property
    def predictions(self) -> Predictions:
        """All images."""
        with torch.no_grad(), capture_calls({self.teacher.head.fc: 'fc'}) as calls:
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


READERS = {'roi_head': RoIHeadReader, 'bbox_head': DenseHeadReader, 'head': ClassifierReader}
"""Part of a model to what reads it."""


def needed_readings(losses: Iterable[nn.Module]) -> list[str]:
    """What any of the losses needs.

    Raises:
        ValueError: There is no such reading.
    """
    names = set()
    for loss in losses:
        if unknown := sorted(set(loss.needs) - set(READINGS)):
            raise ValueError(f'{type(loss).__name__}: needs must be of {sorted(READINGS)}, got {unknown}')
        names.update(loss.needs)
    return sorted(names)


def check_heads(student: nn.Module, teacher: nn.Module, names: Sequence[str]) -> None:
    """Refuse heads that cannot be read, or not compared.

    Proposals are the student's own: a teacher whose head does not compare gives no loss on them, and that is all.

    Args:
        student (nn.Module): With its head.
        teacher (nn.Module): With its head.
        names (Sequence[str]): Of :data:`READINGS`; without any nothing is checked.

    Raises:
        ValueError: Says which head, and why not.
    """
    if not names:
        return
    reader, own = _structure(student, 'student')
    if missing := sorted(set(names) - set(reader.gives)):
        raise ValueError(f'distill_losses need {missing}, and {reader.kind}, which the student has, gives only '
                         f'{sorted(reader.gives)}: leave out the losses that need them')
    try:
        other, theirs = _structure(teacher, 'teacher')
        if other is not reader:
            raise ValueError(f'the student has {reader.kind}, the teacher {other.kind}')
        if different := [f'{what}: {own[what]} and {theirs[what]}' for what in own if own[what] != theirs[what]]:
            raise ValueError(f'the heads of student and teacher differ in {"; ".join(different)}')
    except ValueError as error:
        if set(names) - {'proposals'}:
            raise ValueError(f'distill_losses need {names}, for which the predictions of both networks are compared, '
                             f'but {error}. Take a teacher whose head is like the student\'s, or losses of maps '
                             'alone') from error
        print_log(f'teacher: it has no loss on the student\'s proposals, since {error}', 'current')


@contextmanager
def watch_head(student: nn.Module, names: Sequence[str]) -> Iterator[HeadReader]:
    """Hooks on the student's head for one forward pass; afterwards :meth:`HeadReader.read` gives the readings.

    Args:
        student (nn.Module): The model that is trained.
        names (Sequence[str]): Of :data:`READINGS`; without any there are no hooks.
    """
    reader = (_structure(student, 'student')[0] if names else HeadReader)(student, names)
    with reader.watching():
        yield reader


def _structure(model: nn.Module, role: str) -> tuple[type[HeadReader], dict[str, object]]:
    for part, reader in READERS.items():
        if getattr(model, part, None) is not None:
            try:
                return reader, reader.structure(model)
            except ValueError as error:
                raise ValueError(f'the {role}\'s {error}') from error
    raise ValueError(f'the {role}, a {type(model).__name__}, has none of '
                     f'{", ".join(reader.kind for reader in READERS.values())}')


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


def _logit_maps(head: nn.Module, output: tuple) -> list[Tensor]:
    """(N, A * K, H, W) per level."""
    maps = output[0]
    if isinstance(head, TOODHead):  # it gives probabilities
        maps = [x.to(working_dtype(x)).logit(eps=1e-6) for x in maps]
    return list(maps)


def _rows(x: Tensor, channels: int) -> Tensor:
    """(N * H * W * A, channels) of (N, A * channels, H, W)."""
    return x.permute(0, 2, 3, 1).reshape(-1, channels)
