"""Boxes of a batch, and the features within them."""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from mmcv.ops import roi_align
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from .features import map_strides
from .functional.precision import working_dtype

__all__ = ['box_rois', 'evenly_spread', 'instance_boxes', 'read_rois']


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


def box_rois(boxes: Sequence[Tensor]) -> Tensor:
    """(K, 5) of all images in turn: the index of the image, and its boxes (K_i, 4)."""
    images = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(b) for b in boxes]))
    boxes = torch.cat(list(boxes))
    return torch.cat([images.to(boxes).unsqueeze(1), boxes], 1)


def read_rois(feats: Sequence[Tensor], rois: Tensor, data_samples: Sequence, *, output_size: int = 7,
              pool: bool = True, cells: int = 14) -> Tensor:
    r"""Features of boxes, RoIAligned (He et al., ICCV 2017) from the level that fits each.

    That is the one of FPN (Lin et al., CVPR 2017, equation 1): a box whose side :math:`\sqrt{wh}` is ``cells`` to
    twice ``cells`` cells of the finest map is read there, as is any smaller one, and one twice as large on the next.
    Levels may come in any order.

    Args:
        feats (Sequence[Tensor]): (N, C, H, W) per level, any float type; read in float32, or float64 if given.
        rois (Tensor): (K, 5), see :func:`box_rois`; x1, y1, x2, y2 in pixels of the batch, without gradient.
        data_samples (Sequence): One per image, with ``batch_input_shape``.
        output_size (int): Rows and columns that are sampled in a box.
        pool (bool): The mean over them (True), or all of them (False).
        cells (int): See above; 14 is FPN's 224 pixels at level 4.

    Returns:
        Tensor: (K, C), or (K, output_size ** 2, C) without ``pool``; where there is no box, connected to all maps.

    Raises:
        ValueError: The levels differ in channels.
    """
    if len({feat.shape[1] for feat in feats}) > 1:
        raise ValueError('instances are read from several levels, which must have as many channels, got '
                         f'{[feat.shape[1] for feat in feats]}: choose levels by connector=dict(student_levels=[...], '
                         'teacher_levels=[...]), or read all boxes from each by nodes=dict(type=\'instances\', '
                         'every_level=True)')
    strides = [down for down, _ in map_strides(feats, data_samples)]
    dtype = working_dtype(feats[0])
    if not len(rois):
        shape = (0, feats[0].shape[1]) if pool else (0, output_size ** 2, feats[0].shape[1])
        return sum(feat.sum() for feat in feats).to(dtype) * feats[0].new_zeros(shape, dtype=dtype)
    images, near, far = rois.detach().to(dtype).split((1, 2, 2), 1)
    far = torch.maximum(near, far)  # RoIAlign refuses boxes of negative size
    rois, sides = torch.cat([images, near, far], 1), (far - near).prod(1).sqrt()  # (K, 5), (K,) pixels
    ranks = sorted(range(len(feats)), key=strides.__getitem__)  # the finest first, in whatever order the levels come
    finest = strides[ranks[0]]
    doublings = sides.new_tensor([math.log2(strides[i] / finest) for i in ranks[1:]])
    fitting = (sides / (cells * finest) + 1e-6).log2()
    level = sides.new_tensor(ranks)[(fitting.unsqueeze(1) >= doublings).sum(1)]  # (K,)
    order = level.argsort()
    counts = (level.unsqueeze(1) == torch.arange(len(feats), device=level.device)).sum(0).tolist()
    found = []
    for feat, part, stride in zip(feats, rois[order].split(counts), strides, strict=True):
        if len(part):
            feat = feat.to(dtype).contiguous()  # RoIAlign reads other layouts wrongly: open-mmlab/mmcv#2203
            crops = roi_align(feat, part, output_size, 1 / stride, 0, 'avg', True)  # (K_i, C, P, P)
            found.append(crops.mean((2, 3)) if pool else crops.flatten(2).mT)
    return torch.cat(found)[order.argsort()]


def evenly_spread(boxes: Tensor, labels: Tensor | None, most: int) -> tuple[Tensor, Tensor | None]:
    """At most so many rows of both, (K, ...) and (K,), evenly spread over them."""
    if len(boxes) <= most:
        return boxes, labels
    index = torch.linspace(0, len(boxes) - 1, most, device=boxes.device).round().long()
    return boxes[index], None if labels is None else labels[index]
