"""SP of Tung and Mori (ICCV 2019), over the nodes of one's choice."""
from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import MODELS
from torch import Tensor

from ..functional import similarity_preserving_loss
from ..nodes import node_source
from .base import DistillLoss
from .checks import check_weights

__all__ = ['SimilarityPreservingLoss']


@MODELS.register_module()
class SimilarityPreservingLoss(DistillLoss):
    """Which nodes excite the same features, in the student as in the teacher; a sum over levels, a mean over graphs.

    The paper's nodes are the images of a batch, all cells of them, ``nodes=dict(type='images', pool=False)``, with a
    factor of 3000, the default; other nodes are this project's. See
    :func:`mmgkd.functional.similarity_preserving_loss`.

    Args:
        loss_weight (float): Factor on the term ``similarity``.
        nodes (str | dict): ``instances``, ``grid``, ``channels`` or ``images``, or a dict with such a type and the
            options of its class in :mod:`mmgkd.nodes`.

    Raises:
        ValueError: The weight is not above zero, or the nodes are unknown.
    """

    same_shape = False

    def __init__(self, *, loss_weight: float = 3000., nodes: str | dict = 'instances') -> None:
        super().__init__()
        self.weights = {'similarity': loss_weight}
        check_weights(self)
        self.nodes = node_source(nodes)
        self.same_shape = self.nodes.same_shape

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        return {'similarity': [similarity_preserving_loss(x.student.flatten(2), x.teacher.flatten(2), x.valid)
                               for x in self.nodes(student_feats, teacher_feats, data_samples)]}
