"""MGD: the teacher's map generated from a masked student's (Yang et al., ECCV 2022)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..features import valid_cells
from ..functional import mgd_loss, mgd_mask
from ..functional.checks import check_maps
from .base import DistillLoss
from .checks import check_prepared, check_weights

__all__ = ['MGDLoss']


@MODELS.register_module()
class MGDLoss(DistillLoss):
    """Squared distance of the teacher's map and one generated from the student's, of which cells are masked.

    Two 3x3 convolutions per level, with a ReLU between them and PyTorch's own initialisation, as published, are
    trained along. See :func:`mmgkd.functional.mgd_loss`. A sum over levels.

    Args:
        loss_weight (float): Factor on the loss, a sum over channels and cells.
        ratio (float): Share of the cells that are masked, from 0 to 1.

    Raises:
        ValueError: The weight is not above 0, or the ratio is out of range.
    """

    def __init__(self, *, loss_weight: float = 5e-7, ratio: float = 0.45) -> None:
        super().__init__()
        self.weights = {'generation': loss_weight}
        check_weights(self)
        self.options = dict(ratio=ratio)
        mgd_mask(torch.zeros(0, 1, 1, 1), **self.options)  # a wrong option is an error now, not in training
        self.generators = nn.ModuleList()

    def prepare(self, student_shapes: Sequence[tuple[int, int, int]],
                teacher_shapes: Sequence[tuple[int, int, int]]) -> None:
        """See :class:`DistillLoss`."""
        self.generators = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(c, c, 3, padding=1))
            for c, *_ in teacher_shapes)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        check_prepared(self, self.generators, teacher_feats)
        masks = valid_cells(teacher_feats, data_samples)
        values = []
        for generate, student, teacher, valid in zip(
                self.generators, student_feats, teacher_feats, masks, strict=True):
            check_maps(student, teacher, valid)
            generated = generate(student * mgd_mask(student, valid, **self.options))  # (N, C, H, W)
            values.append(mgd_loss(generated, teacher, valid))
        return {'generation': values}
