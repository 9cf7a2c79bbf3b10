"""The geometric graph of Lassance et al. (ICASSP 2020), over the nodes of one's choice."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..functional import geometric_graph_loss
from ..nodes import node_source
from .base import DistillLoss
from .checks import check_weights

__all__ = ['GeometricGraphLoss']


@MODELS.register_module()
class GeometricGraphLoss(DistillLoss):
    """The likeness of nodes to each other, the student's made the teacher's; a mean over levels and graphs.

    The published factor of 25 on the mean over three layers is the default. The paper's nodes are the images of a
    batch, for classifiers; all other nodes are this project's, as with the two images per GPU of detectors such a
    graph is constant. The options go to :func:`mmgkd.functional.geometric_graph_loss`.

    Args:
        loss_weight (float): Factor on the term ``edge``.
        nodes (str | dict): ``instances``, ``grid``, ``channels`` or ``images``, or a dict with such a type and the
            options of its class in :mod:`mmgkd.nodes`.
        k (int, optional): Nearest neighbours in the teacher's graph, to which edges are compared; all by default.
        power (int): Of the graphs.
        rectify (str): Makes cosines non-negative: ``relu``, ``abs`` or ``shift``.
        class_mask (str, optional): ``intra`` or ``inter``: edges within or between classes only, of nodes with labels.

    Raises:
        ValueError: The weight is not above zero, or an option is unknown, out of range or not for these nodes.
    """

    same_shape = False

    def __init__(self, *, loss_weight: float = 25., nodes: str | dict = 'instances', k: int | None = None,
                 power: int = 1, rectify: str = 'relu', class_mask: str | None = None) -> None:
        super().__init__()
        self.weights = {'edge': loss_weight}
        check_weights(self)
        self.nodes = node_source(nodes)
        self.same_shape = self.nodes.same_shape
        self.options = dict(k=k, power=power, rectify=rectify, class_mask=class_mask)
        nothing = torch.zeros(0, 1, 1)
        geometric_graph_loss(nothing, nothing, labels=nothing[..., 0] if self.nodes.labelled else None, **self.options)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        levels = self.nodes(student_feats, teacher_feats, data_samples)
        return {'edge': [geometric_graph_loss(x.student.flatten(2), x.teacher.flatten(2), x.valid, x.labels,
                                              **self.options) / len(levels) for x in levels]}
