"""Where the nodes of a graph come from: the channels, grid cells, images or instances of a batch.

Each source gives the same nodes of student and teacher, whose maps need agree neither in channels nor in size.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from .features import map_strides, valid_cells

__all__ = ['SOURCES', 'ChannelNodes', 'GridNodes', 'ImageNodes', 'InstanceNodes', 'Nodes', 'instance_boxes',
           'node_source']


class Nodes(NamedTuple):
    """The nodes of B graphs of V nodes each.

    Attributes:
        student (Tensor): (B, V, D) features, or (B, V, P, D) where a node is a set of P cells.
        teacher (Tensor): The same, D may differ; without gradient.
        valid (Tensor, optional): (B, V) bool, False where a graph has fewer nodes than others; ``None`` for no such.
        labels (Tensor, optional): (B, V) classes of instances.
    """
    student: Tensor
    teacher: Tensor
    valid: Tensor | None = None
    labels: Tensor | None = None


class ChannelNodes:
    """One graph per image and level, of its channels; a feature for each cell, zero on padding."""

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

    def __init__(self, *, size: int = 8) -> None:
        _at_least_one('size', size)
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
            nodes.append(Nodes(s, t, None if valid_s is None or valid_t is None else valid_s & valid_t))
        return nodes


class ImageNodes:
    """One graph per level, of the images of the batch.

    With the two images per GPU that detectors are trained with, such a graph holds next to nothing: it is for
    classifiers.

    Args:
        pool (bool): The mean over cells (True), or all cells with zeros on padding (False).
    """

    def __init__(self, *, pool: bool = True) -> None:
        self.pool = pool

    def __call__(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                 data_samples: Sequence | None = None) -> list[Nodes]:
        """(1, N, C), or (1, N, C * H * W), per level."""
        return _per_level(self._images, student_feats, teacher_feats, data_samples)

    def _images(self, feat: Tensor, valid: Tensor | None) -> Tensor:
        if self.pool:
            return _grid_means(feat, valid, (1, 1))[0].transpose(0, 1)
        return (feat if valid is None else feat * valid.unsqueeze(1)).flatten(1).unsqueeze(0)


class InstanceNodes:
    """The ground-truth boxes of a batch, RoIAligned from the level that fits each, alike in student and teacher.

    The level is that of FPN (Lin et al., CVPR 2017, equation 1): a box whose side is ``cells`` to twice ``cells``
    cells of the finest map is read there, one twice as large from the next.

    Args:
        output_size (int): Rows and columns that are sampled in a box.
        pool (bool): The mean over them (True), or all of them, (B, V, output_size ** 2, C) (False).
        per_image (bool): A graph per image, of as many nodes as the fullest one has boxes, or one graph of all.
        every_level (bool): Each level in turn reads all boxes, one ``Nodes`` per level, instead of one in all.
        cells (int): See above; 14 is FPN's 224 pixels at level 4.
        max_per_image (int): Of more boxes in one image, so many are taken, evenly spread over the list.
    """

    def __init__(self, *, output_size: int = 7, pool: bool = True, per_image: bool = False,
                 every_level: bool = False, cells: int = 14, max_per_image: int = 128) -> None:
        for name, value in dict(output_size=output_size, cells=cells, max_per_image=max_per_image).items():
            _at_least_one(name, value)
        self.output_size, self.pool, self.per_image, self.every_level = output_size, pool, per_image, every_level
        self.cells, self.max_per_image = cells, max_per_image

    def __call__(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                 data_samples: Sequence | None = None, boxes: Sequence[Tensor] | None = None) -> list[Nodes]:
        """One ``Nodes``, or one per level with ``every_level``; there may be no node in them.

        Args:
            student_feats (Sequence[Tensor]): (N, C, H, W) per level.
            teacher_feats (Sequence[Tensor]): (N, C, H, W) per level.
            data_samples (Sequence): One per image, with ``gt_instances``.
            boxes (Sequence[Tensor], optional): (K, 4) per image, x1, y1, x2, y2 in pixels of the batch, instead of
                the ground truth.

        Raises:
            ValueError: The samples have no boxes.
        """
        given = instance_boxes(data_samples) if boxes is None else [(b, None) for b in boxes]
        given = [_spread(b, y, self.max_per_image) for b, y in given]
        counts = [len(b) for b, _ in given]
        device = student_feats[0].device
        images = torch.arange(len(given), device=device).repeat_interleave(torch.tensor(counts, device=device))
        rois = torch.cat([images.unsqueeze(1), torch.cat([b for b, _ in given])], 1)  # (K, 5)
        labels = None if given[0][1] is None else torch.cat([y for _, y in given])  # (K,)
        groups = [[i] for i in range(len(student_feats))] if self.every_level else [range(len(student_feats))]
        return [self._arrange(*(self._read([feats[i] for i in group], rois, data_samples)
                                for feats in (student_feats, [t.detach() for t in teacher_feats])), labels, counts)
                for group in groups]

    def _read(self, feats: list[Tensor], rois: Tensor, data_samples: Sequence) -> Tensor:
        """(K, C) or (K, P, C), from the levels given."""
        strides = map_strides(feats, data_samples)
        dtype = torch.float64 if feats[0].dtype == torch.float64 else torch.float32  # RoIAlign has no half on CPUs
        sides = (rois[:, 3:] - rois[:, 1:3]).clamp(min=0).prod(1).sqrt()  # (K,) pixels
        level = (sides / (self.cells * strides[0]) + 1e-6).log2().floor().clamp(0, len(feats) - 1)  # (K,)
        found, order = [], []
        for i, (feat, stride) in enumerate(zip(feats, strides, strict=True)):
            index = (level == i).nonzero().squeeze(1)  # (K_i,)
            if len(index):
                crops = roi_align(feat.to(dtype), rois[index].to(dtype), self.output_size, 1 / stride, 0, 'avg', True)
                found.append(crops.mean((2, 3)) if self.pool else crops.flatten(2).mT)  # (K_i, C) or (K_i, P, C)
                order.append(index)
        if not found:  # connected to the maps all the same
            cells = () if self.pool else (self.output_size ** 2,)
            return feats[0].to(dtype).sum() * feats[0].new_zeros((0, *cells, feats[0].shape[1]), dtype=dtype)
        return torch.cat(found)[torch.cat(order).argsort()]

    def _arrange(self, student: Tensor, teacher: Tensor, labels: Tensor | None, counts: list[int]) -> Nodes:
        if not self.per_image:
            return Nodes(student.unsqueeze(0), teacher.unsqueeze(0), None, None if labels is None else labels[None])
        valid = torch.arange(max(counts), device=student.device) < torch.tensor(
            counts, device=student.device).unsqueeze(1)  # (N, V)

        def spread(x: Tensor) -> Tensor:
            return torch.stack([F.pad(part, (0, 0) * (part.dim() - 1) + (0, max(counts) - len(part)))
                                for part in x.split(counts)])
        return Nodes(spread(student), spread(teacher), valid, None if labels is None else spread(labels))


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


def instance_boxes(data_samples: Sequence | None) -> list[tuple[Tensor, Tensor]]:
    """(K, 4) boxes, x1, y1, x2, y2 in pixels of the batch, and (K,) labels of each image.

    Raises:
        ValueError: The samples have no boxes.
    """
    if not data_samples or not all('gt_instances' in sample for sample in data_samples):
        raise ValueError('instances need data samples with gt_instances: for data without boxes choose other nodes, '
                         'such as nodes=\'grid\' or, for classifiers, nodes=\'images\'')
    found = [sample.gt_instances for sample in data_samples]
    return [(get_box_tensor(x.bboxes), x.labels) for x in found]


def _spread(boxes: Tensor, labels: Tensor | None, most: int) -> tuple[Tensor, Tensor | None]:
    if len(boxes) <= most:
        return boxes, labels
    index = torch.linspace(0, len(boxes) - 1, most, device=boxes.device).round().long()
    return boxes[index], None if labels is None else labels[index]


def _per_level(read, student_feats, teacher_feats, data_samples) -> list[Nodes]:
    masks = [valid_cells(feats, data_samples) for feats in (student_feats, teacher_feats)]
    return [Nodes(read(student, mask_s), read(teacher.detach(), mask_t)) for student, teacher, mask_s, mask_t
            in zip(student_feats, teacher_feats, *masks, strict=True)]


def _grid_means(feat: Tensor, valid: Tensor | None, grid: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """(N, rows * columns, C) means over valid cells, and (N, rows * columns) bool where there were any."""
    if valid is None:
        return F.adaptive_avg_pool2d(feat, grid).flatten(2).mT, None
    share = F.adaptive_avg_pool2d(valid.unsqueeze(1).to(feat.dtype), grid)  # (N, 1, rows, columns)
    means = F.adaptive_avg_pool2d(feat * valid.unsqueeze(1), grid) / share.clamp(min=torch.finfo(feat.dtype).eps)
    return means.flatten(2).mT, (share > 0).flatten(1)


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f'{name} must be at least 1, got {value}')
