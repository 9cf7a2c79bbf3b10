"""RKD of Park et al. (CVPR 2019), over the nodes of one's choice."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..functional import rkd_terms
from ..nodes import node_source
from .base import DistillLoss
from .checks import check_weights

__all__ = ['RKDLoss']


@MODELS.register_module()
class RKDLoss(DistillLoss):
    """Distances between nodes and the angles between them; a mean over levels and graphs.

    The paper's nodes are the images of a batch, at one layer; all other nodes, and the mean over several levels, are
    this project's. The options go to :func:`mmgkd.functional.rkd_terms`.

    Args:
        distance_weight (float): Factor on the term ``distance``; a term of weight 0 is not computed.
        angle_weight (float): Factor on the term ``angle``.
        nodes (str | dict): ``instances``, ``grid``, ``channels`` or ``images``, or a dict with such a type and the
            options of its class in :mod:`mmgkd.nodes`.
        unit_norm (bool): Bring every node to length 1 first.
        max_nodes (int): The angles are those of at most so many nodes of a graph; memory goes with its cube.

    Raises:
        ValueError: A weight is negative, both are zero, or an option is unknown or out of range.
    """

    same_shape = False

    def __init__(self, *, distance_weight: float = 25., angle_weight: float = 50., nodes: str | dict = 'instances',
                 unit_norm: bool = False, max_nodes: int = 128) -> None:
        super().__init__()
        self.weights = {'distance': distance_weight, 'angle': angle_weight}
        check_weights(self)
        self.nodes = node_source(nodes)
        self.same_shape = self.nodes.same_shape
        self.options = dict(terms=tuple(term for term, weight in self.weights.items() if weight),
                            unit_norm=unit_norm, max_nodes=max_nodes)
        nothing = torch.zeros(0, 1, 1)
        rkd_terms(nothing, nothing, **self.options)  # an unknown option is an error now, not in training

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        levels = [rkd_terms(x.student.flatten(2), x.teacher.flatten(2), x.valid, **self.options)
                  for x in self.nodes(student_feats, teacher_feats, data_samples)]
        return {term: [level[term] / len(levels) for level in levels] for term in self.options['terms']}
