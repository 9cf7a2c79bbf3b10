"""FBKD: attention-guided and non-local distillation (Zhang and Ma, ICLR 2021)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..features import valid_cells
from ..functional import (
    cell_sum,
    euclidean_distance,
    kept_cells,
    mutual_focus,
    non_local,
    standardize_channels,
    uniform_weight,
)
from ..functional.checks import check_maps, check_temperature
from .base import DistillLoss
from .checks import check_prepared, check_weights

__all__ = ['FBKDLoss']


@MODELS.register_module()
class FBKDLoss(DistillLoss):
    r"""Distances of maps where both networks look, of their means over cells and channels, and of cells' relations.

    .. math::
        L_{feature} &= \sqrt{\textstyle\sum_{c,p} a_p (A_1(S)_{cp} - T_{cp})^2}, \qquad a = (a(S) + a(T)) / 2 \\
        L_{channel} &= \|A_2(\mathrm{mean}_p\, S) - \mathrm{mean}_p\, T\|_2 \\
        L_{spatial} &= \|A_3(\mathrm{mean}_c\, S) - \mathrm{mean}_c\, T\|_2 \\
        L_{relation} &= \|A_4(R_S(S)) - R_T(T)\|_2

    with the attention :func:`mmgkd.functional.mutual_focus` and learned layers: :math:`A_1` and :math:`A_4` are 1x1
    convolutions, :math:`A_3` is a 3x3 one, :math:`A_2` is linear, and the non-local blocks R are trained on both sides.
    Each norm is, as published, over the whole batch: a term grows with the root of the number of images and of cells.
    A sum over levels. The channel attention of the paper is computed in the published code and not used; here it is
    not computed. Leaving padding out is this project's.

    Args:
        feature_weight (float): Factor on the term; a term of weight 0 is not computed.
        channel_weight (float): Factor on the term.
        spatial_weight (float): Factor on the term.
        relation_weight (float): Factor on the term.
        temperature (float): Of the attention.
        strides (Sequence[int]): Of the max pooling in the non-local blocks, per level; the last for all further ones.
        reductions (Sequence[int]): Of their channels, likewise.

    Raises:
        ValueError: A weight is negative, or all are zero; the temperature is not above 0; a stride or reduction is
            below 1, or there is none.
    """

    def __init__(self, *, feature_weight: float = 7e-5, channel_weight: float = 4e-3, spatial_weight: float = 4e-3,
                 relation_weight: float = 7e-5, temperature: float = 0.5, strides: Sequence[int] = (8, 4, 2, 2),
                 reductions: Sequence[int] = (4, 4, 2, 2)) -> None:
        super().__init__()
        self.weights = dict(feature=feature_weight, channel=channel_weight, spatial=spatial_weight,
                            relation=relation_weight)
        check_weights(self)
        check_temperature(temperature)
        for name, values in dict(strides=strides, reductions=reductions).items():
            if min(values, default=0) < 1:
                raise ValueError(f'{name} must be at least 1, and one at least, got {values}')
        self.terms = tuple(term for term, weight in self.weights.items() if weight)
        self.temperature, self.strides, self.reductions = temperature, strides, reductions
        self.levels = nn.ModuleList()

    def prepare(self, student_shapes: Sequence[tuple[int, int, int]],
                teacher_shapes: Sequence[tuple[int, int, int]]) -> None:
        """See :class:`DistillLoss`."""
        levels = []
        for i, (channels, *_) in enumerate(teacher_shapes):
            stride, reduction = (values[min(i, len(values) - 1)] for values in (self.strides, self.reductions))
            distances = nn.ModuleDict(dict(
                feature=FeatureDistance(channels, self.temperature), channel=ChannelDistance(channels),
                spatial=SpatialDistance(), relation=RelationDistance(channels, reduction, stride)))
            levels.append(nn.ModuleDict({term: distances[term] for term in self.terms}))
        self.levels = nn.ModuleList(levels)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        check_prepared(self, self.levels, teacher_feats)
        masks = valid_cells(teacher_feats, data_samples)
        losses = {term: [] for term in self.terms}
        for level, student, teacher, valid in zip(self.levels, student_feats, teacher_feats, masks, strict=True):
            check_maps(student, teacher, valid)
            for term, values in losses.items():
                values.append(level[term](student, teacher.detach(), valid))
        return losses


class FeatureDistance(nn.Module):
    """Of the maps, where both networks look.

    Args:
        channels (int): Of the maps.
        temperature (float): Of the attention.
    """

    def __init__(self, channels: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.adapt = nn.Conv2d(channels, channels, 1)

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """A scalar, from maps (N, C, H, W) and their mask (N, H, W)."""
        focus = mutual_focus(student, teacher, valid, temperature=self.temperature)  # (N, HW)
        return euclidean_distance(self.adapt(student), teacher, focus)


class ChannelDistance(nn.Module):
    """Of each channel's mean over the cells.

    Args:
        channels (int): Of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.adapt = nn.Linear(channels, channels)

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """A scalar, from maps (N, C, H, W) and their mask (N, H, W)."""
        means = [cell_sum(x, uniform_weight(x, valid)) for x in (student, teacher)]  # (N, C)
        x, y = (x[..., None, None] for x in (self.adapt(means[0]), means[1]))  # (N, C, 1, 1)
        return euclidean_distance(x, y, kept_cells(y))


class SpatialDistance(nn.Module):
    """Of each cell's mean over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.adapt = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """A scalar, from maps (N, C, H, W) and their mask (N, H, W)."""
        keep = kept_cells(teacher, valid)  # (N, HW)
        x, y = (x.mean(1, keepdim=True, dtype=keep.dtype) for x in (student, teacher))  # (N, 1, H, W)
        return euclidean_distance(self.adapt(x * keep.view_as(x)), y, keep)


class RelationDistance(nn.Module):
    """Of the maps, to each cell of which a non-local block adds what it takes from all others.

    Args:
        channels (int): Of the maps.
        reduction (int): See :class:`NonLocal`.
        stride (int): See :class:`NonLocal`.
    """

    def __init__(self, channels: int, reduction: int, stride: int) -> None:
        super().__init__()
        self.own, self.other = (NonLocal(channels, reduction, stride) for _ in range(2))
        self.adapt = nn.Conv2d(channels, channels, 1)

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        """A scalar, from maps (N, C, H, W) and their mask (N, H, W)."""
        return euclidean_distance(self.adapt(self.own(student, valid)), self.other(teacher, valid),
                                  kept_cells(teacher, valid))


class NonLocal(nn.Module):
    """A map and what all its cells add to each: a non-local block (Wang et al., CVPR 2018); nothing is added at first.

    Initialised as published. Its batch norm takes the statistics of the cells without padding, and only ever those of
    the batch at hand: distillation has no use for running ones.

    Args:
        channels (int): Of the map.
        reduction (int): What they are divided by, for queries, keys and values.
        stride (int): Of the max pooling of keys and values.
    """

    def __init__(self, channels: int, reduction: int, stride: int) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.stride = stride
        self.query, self.key, self.value = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.expand = nn.Conv2d(inner, channels, 1, bias=False)
        self.scale, self.bias = (nn.Parameter(torch.zeros(channels, 1, 1)) for _ in range(2))
        for conv in (self.query, self.key, self.value):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.kaiming_normal_(self.expand.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, feat: Tensor, valid: Tensor | None = None) -> Tensor:
        """(N, C, H, W), from a map of that shape and its mask (N, H, W)."""
        mixed = non_local(self.query(feat), self.key(feat), self.value(feat), valid, stride=self.stride)
        return feat + standardize_channels(self.expand(mixed), valid) * self.scale + self.bias
