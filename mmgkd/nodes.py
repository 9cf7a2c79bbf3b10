"""Where the nodes of a graph come from: the channels, grid cells, images or instances of a batch.

Each source gives the same nodes of student and teacher, whose maps need agree neither in channels nor in size.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .features import valid_cells
from .functional.checks import check_at_least
from .rois import box_rois, evenly_spread, instance_boxes, read_rois

__all__ = ['SOURCES', 'ChannelNodes', 'GridNodes', 'ImageNodes', 'InstanceNodes', 'Nodes', 'node_source']


class Nodes(NamedTuple):
    """The nodes of B graphs of V nodes each.

    Attributes:
        student (Tensor): (B, V, D) features, or (B, V, P, D) where a node is a set of P cells.
        teacher (Tensor): The same, D may differ; without gradient.
        valid (Tensor, optional): (B, V) bool, False where a graph has fewer nodes than others; ``None`` for no such.
        labels (Tensor, optional): (B, V) classes of instances or images.
    """
    student: Tensor
    teacher: Tensor
    valid: Tensor | None = None
    labels: Tensor | None = None


class ChannelNodes:
    """One graph per image and level, of its channels; a feature for each cell, zero on padding."""

    same_shape = True
    """Whether the maps must have one shape: channel i of the student has to be channel i of the teacher."""

    labelled = False
    """Whether nodes can have labels."""

    def __call__(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                 data_samples: Sequence | None = None) -> list[Nodes]:
        """(N, C, H * W) per level."""
        return _per_level(lambda x, valid: (x if valid is None else x * valid.unsqueeze(1)).flatten(2),
                          student_feats, teacher_feats, data_samples)


class GridNodes:
    """One graph per image and level, of the means of the cells of a grid.

    Args:
        size (int): Rows and columns of the grid; fewer where a map has fewer.
    """

    same_shape = labelled = False

    def __init__(self, *, size: int = 8) -> None:
        check_at_least(1, size=size)
        self.size = size

    def __call__(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                 data_samples: Sequence | None = None) -> list[Nodes]:
        """(N, size * size, C) per level; not valid where a whole cell of the grid is padding."""
        nodes = []
        masks = [valid_cells(feats, data_samples) for feats in (student_feats, teacher_feats)]
        for student, teacher, mask_s, mask_t in zip(student_feats, teacher_feats, *masks, strict=True):
            grid = [min(self.size, *sides) for sides in zip(student.shape[2:], teacher.shape[2:], strict=True)]
            s, valid_s = _grid_means(student, mask_s, grid)
            t, valid_t = _grid_means(teacher.detach(), mask_t, grid)
            nodes.append(Nodes(s, t, valid_s & valid_t if valid_s is not None and valid_t is not None
                               else valid_t if valid_s is None else valid_s))
        return nodes


class ImageNodes:
    """One graph per level, of the images of the batch.

    With the two images per GPU that detectors are trained with, such a graph holds next to nothing: it is for
    classifiers.

    Args:
        pool (bool): The mean over cells (True), or all cells with zeros on padding (False).
    """

    same_shape, labelled = False, True

    def __init__(self, *, pool: bool = True) -> None:
        self.pool = pool

    def __call__(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                 data_samples: Sequence | None = None) -> list[Nodes]:
        """(1, N, C), or (1, N, C * H * W), per level; with labels where each sample has a ``gt_label`` (1,)."""
        classes = [sample.get('gt_label') for sample in data_samples or ()]
        labels = torch.cat(classes).unsqueeze(0) \
            if classes and all(y is not None and y.shape == (1,) for y in classes) else None  # (1, N)
        return [nodes._replace(labels=labels) for nodes
                in _per_level(self._images, student_feats, teacher_feats, data_samples)]

    def _images(self, feat: Tensor, valid: Tensor | None) -> Tensor:
        if self.pool:
            return _grid_means(feat, valid, (1, 1))[0].transpose(0, 1)
        return (feat if valid is None else feat * valid.unsqueeze(1)).flatten(1).unsqueeze(0)


class InstanceNodes:
    """The ground-truth boxes of a batch, RoIAligned from the level that fits each, alike in student and teacher.

    Args:
        output_size (int): Rows and columns that are sampled in a box.
        pool (bool): The mean over them (True), or all of them, (B, V, output_size ** 2, C) (False).
        per_image (bool): A graph per image, of as many nodes as the fullest one has boxes, or one graph of all.
        every_level (bool): Each level in turn reads all boxes, one ``Nodes`` per level, instead of one in all.
        cells (int): See :func:`mmgkd.rois.read_rois`.
        max_per_image (int): Of more boxes in one image, so many are taken, evenly spread over the list.
    """

    same_shape, labelled = False, True

    def __init__(self, *, output_size: int = 7, pool: bool = True, per_image: bool = False,
                 every_level: bool = False, cells: int = 14, max_per_image: int = 128) -> None:
        check_at_least(1, output_size=output_size, cells=cells, max_per_image=max_per_image)
        self.reading = dict(output_size=output_size, pool=pool, cells=cells)
        self.per_image, self.every_level, self.max_per_image = per_image, every_level, max_per_image

    def __call__(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                 data_samples: Sequence | None = None, boxes: Sequence[Tensor] | None = None) -> list[Nodes]:
        """One ``Nodes``, or one per level with ``every_level``; there may be no node in them.

        Args:
            student_feats (Sequence[Tensor]): (N, C, H, W) per level.
            teacher_feats (Sequence[Tensor]): (N, C, H, W) per level.
            data_samples (Sequence): One per image, with ``gt_instances``.
            boxes (Sequence[Tensor], optional): (K, 4) per image, x1, y1, x2, y2 in pixels of the batch, instead of
                the ground truth; they have no labels.

        Raises:
            ValueError: The samples have no boxes.
        """
        given = instance_boxes(data_samples) if boxes is None else [(b, None) for b in boxes]
        boxes, labels = zip(*(evenly_spread(b, y, self.max_per_image) for b, y in given), strict=True)
        counts, rois = [len(b) for b in boxes], box_rois(boxes)
        labels = None if labels[0] is None else torch.cat(labels)  # (K,)
        levels = [slice(i, i + 1) for i in range(len(student_feats))] if self.every_level else [slice(None)]
        return [self._arrange(*(read_rois(feats[level], rois, data_samples, **self.reading)
                                for feats in (student_feats, [t.detach() for t in teacher_feats])), labels, counts)
                for level in levels]

    def _arrange(self, student: Tensor, teacher: Tensor, labels: Tensor | None, counts: list[int]) -> Nodes:
        every = [student, teacher] + ([] if labels is None else [labels])
        if not self.per_image:
            student, teacher, *labels = (x.unsqueeze(0) for x in every)
            return Nodes(student, teacher, None, *labels)
        student, teacher, *labels = (pad_sequence(x.split(counts), batch_first=True) for x in every)
        valid = torch.arange(max(counts)) < torch.tensor(counts).unsqueeze(1)  # (N, V)
        return Nodes(student, teacher, valid.to(student.device), *labels)


SOURCES = {'channels': ChannelNodes, 'grid': GridNodes, 'images': ImageNodes, 'instances': InstanceNodes}


def node_source(config: str | dict):
    """The source that a config names: ``'instances'``, or ``dict(type='grid', size=4)``.

    Raises:
        ValueError: There is no such source.
    """
    options = dict(type=config) if isinstance(config, str) else dict(config)
    kind = options.pop('type', None)
    if kind not in SOURCES:
        raise ValueError(f'nodes must be one of {sorted(SOURCES)}, or a dict with such a type, got {config!r}')
    return SOURCES[kind](**options)


def _per_level(read, student_feats, teacher_feats, data_samples) -> list[Nodes]:
    masks = [valid_cells(feats, data_samples) for feats in (student_feats, teacher_feats)]
    return [Nodes(read(student, mask_s), read(teacher.detach(), mask_t)) for student, teacher, mask_s, mask_t
            in zip(student_feats, teacher_feats, *masks, strict=True)]


def _grid_means(feat: Tensor, valid: Tensor | None, grid: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """(N, rows * columns, C) means over valid cells, and (N, rows * columns) bool where there were any."""
    if valid is None:
        return F.adaptive_avg_pool2d(feat, grid).flatten(2).mT, None
    share = F.adaptive_avg_pool2d(valid.unsqueeze(1).to(feat.dtype), grid)  # (N, 1, rows, columns)
    means = F.adaptive_avg_pool2d(feat * valid.unsqueeze(1), grid) / share.masked_fill(share == 0, 1)
    return means.flatten(2).mT, (share > 0).flatten(1)

