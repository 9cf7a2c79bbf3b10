"""DSIG of Chen et al. (ICCV 2021): the instances of an image as a graph."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..functional import dsig_terms
from ..functional.checks import check_at_least
from ..readings import Proposals
from ..rois import box_rois, read_rois
from .base import DistillLoss
from .checks import check_weights

__all__ = ['DSIGLoss']


@MODELS.register_module()
class DSIGLoss(DistillLoss):
    r"""Nodes and edges of the graph of what the student proposes in an image; a mean over images.

    Nodes are the student's sampled proposals, foreground and background, each RoIAligned alike in student and
    teacher; edges are the cosines among the foreground and that background which the teacher gets wrong. Where there
    is no background, as with one-stage detectors, whose boxes are all foreground, leave it out by
    ``background_weight=0``. See :func:`mmgkd.functional.dsig_terms`.

    The reference sums over the two images of a GPU what is a mean here, so its factors are doubled: 0.5, 0.5 and 1
    (ResNet-50 from ResNet-101) are the defaults 1, 1 and 2. For ResNet-18 from ResNet-50, where the edges had 2, take
    ``edge_weight=4``.

    Args:
        foreground_weight (float): Factor on the term ``foreground``, nodes; a term of weight 0 is not computed.
        background_weight (float): Factor on the term ``background``, nodes.
        edge_weight (float): Factor on the term ``edge``.
        background_ratio (float): Background nodes count by that, times the foreground's number over their own.
        hard_threshold (float): A teacher's cross entropy at a background proposal, from which on it is hard.
        output_size (int): Rows and columns that are sampled in a box.
        cells (int): Chooses a box's level, see :func:`mmgkd.rois.read_rois`.

    Raises:
        ValueError: A weight is negative, all are zero, or a size is below 1.
    """

    needs = ('proposals',)

    def __init__(self, *, foreground_weight: float = 1., background_weight: float = 1., edge_weight: float = 2.,
                 background_ratio: float = 7.5, hard_threshold: float = 0.6, output_size: int = 7,
                 cells: int = 14) -> None:
        super().__init__()
        self.weights = {'foreground': foreground_weight, 'background': background_weight, 'edge': edge_weight}
        check_weights(self)
        check_at_least(1, output_size=output_size, cells=cells)
        self.terms = tuple(term for term, weight in self.weights.items() if weight)
        self.background_ratio, self.hard_threshold = background_ratio, hard_threshold
        self.reading = dict(output_size=output_size, cells=cells, pool=False)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None, *, proposals: Proposals) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`; one value per term, of all levels.

        Args:
            student_feats (Sequence[Tensor]): (N, C, H, W) per level.
            teacher_feats (Sequence[Tensor]): (N, C, H, W) per level.
            data_samples (Sequence): One per image.
            proposals (Proposals): Of each image (K, 4) boxes, x1, y1, x2, y2 in pixels of the batch, (K,) whether
                they are foreground, and the teacher's (K,) cross entropies, or ``None``: then none is hard.
        """
        rois, foreground = box_rois(proposals.boxes), torch.cat(list(proposals.foreground))  # (K, 5), (K,)
        hard = torch.zeros_like(foreground) if proposals.teacher_loss is None \
            else ~foreground & (torch.cat(list(proposals.teacher_loss)) >= self.hard_threshold)
        if 'background' not in self.terms:
            used = foreground | hard
            rois, foreground, hard = rois[used], foreground[used], hard[used]
        student, teacher = (read_rois(feats, rois, data_samples, **self.reading).flatten(1)
                            for feats in (student_feats, [t.detach() for t in teacher_feats]))  # (K, P * C)
        terms = dsig_terms(student, teacher, rois[:, 0].long(), foreground, hard, num_images=len(proposals.boxes),
                           terms=self.terms, background_ratio=self.background_ratio)
        return {term: [value] for term, value in terms.items()}
