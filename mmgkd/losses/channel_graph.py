"""GKD: the channel graph of Wang et al. (arXiv 2405.08547), over several levels."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from ..features import valid_cells
from ..functional import channel_graph_levels
from ..functional.checks import check_at_least
from .base import DistillLoss
from .checks import check_weights

__all__ = ['ChannelGraphLoss']


@MODELS.register_module()
class ChannelGraphLoss(DistillLoss):
    r""":math:`\alpha L_V + \beta L_E + \gamma L_S`, a mean over images and a weighted mean over levels.

    The configs of this project take it from ``configs/_base_/gkd.py``, whose weights, windows and weighting of levels
    measured best and are not the defaults here.

    The graph, its edges and the three alignments are the paper's; the exact terms, the attention and the weights
    are this project's, see :func:`mmgkd.functional.channel_graph_levels`, to which the options go.

    Args:
        vertex_weight (float): :math:`\alpha`; a term of weight 0 is not computed.
        edge_weight (float): :math:`\beta`.
        spectral_weight (float): :math:`\gamma`.
        level_weights (Sequence[float] | str, optional): One per level, relative to each other; ``cells``, as many as a
            level has cells, so that each cell of the pyramid counts the same; or equal, by default.
        attention (Sequence[str], optional): Any of ``spatial``, ``channel``, ``relational``, by which the teacher says
            what counts more; all counts alike by default, which measured best.
        temperature (float): Of the attention.
        centered (bool): Correlations (True) or cosines (False), which needs ``window_size=None``.
        spectral (str): ``rayleigh`` or ``subspace``.
        affinity (str): Of the spectral term: ``relu``, ``abs`` or ``shift``.
        num_eigenvectors (int): Of the spectral term; fewer than channels.
        pooled (bool): One graph of the cells of all images of a batch instead of one per image.
        window_size (int, optional): Correlations are those within windows of so many by so many cells, so that what
            changes slowly over an image counts less; over the whole map by default.
        max_cells (int, optional): Edges and spectrum of maps of more cells are estimated from their means over squares
            of cells, of 2, 4, 8 ... a side, so many at most: a Gram matrix then costs the same however large an image
            is. With 2048, strides 4, 8 and 16 of an image of 800 x 1333 pixels come onto the grid of stride 32. By
            default maps are taken as they are; vertices always are.

    Raises:
        ValueError: A weight is negative, or all are zero; an option is unknown, or does not go with another.
    """

    def __init__(self, *, vertex_weight: float = 1., edge_weight: float = 1., spectral_weight: float = 1.,
                 level_weights: Sequence[float] | str | None = None,
                 attention: Sequence[str] | None = None, temperature: float = 0.5,
                 centered: bool = True, spectral: str = 'rayleigh', affinity: str = 'relu',
                 num_eigenvectors: int = 16, pooled: bool = False, window_size: int | None = None,
                 max_cells: int | None = None) -> None:
        super().__init__()
        self.weights = {'vertex': vertex_weight, 'edge': edge_weight, 'spectral': spectral_weight}
        check_weights(self)
        if isinstance(level_weights, str):
            if level_weights != 'cells':
                raise ValueError(f"level_weights must be numbers, 'cells' or None, got {level_weights!r}")
        elif level_weights is not None and (not all(w >= 0 for w in level_weights) or not sum(level_weights)):
            raise ValueError(f'level_weights must be at least 0, and one above it, got {level_weights}')
        self.level_weights = level_weights
        self.options = dict(
            terms=tuple(term for term, weight in self.weights.items() if weight), attention=attention,
            temperature=temperature, centered=centered, spectral=spectral, affinity=affinity,
            num_eigenvectors=num_eigenvectors, pooled=pooled, window_size=window_size, max_cells=max_cells)
        check_at_least(1, num_eigenvectors=num_eigenvectors)
        nothing = torch.zeros(0, num_eigenvectors + 1, 1, 1)
        channel_graph_levels([nothing], [nothing], [None], **self.options)  # unknown options raise now

    def prepare(self, student_shapes: Sequence[tuple[int, int, int]],
                teacher_shapes: Sequence[tuple[int, int, int]]) -> None:
        """Refuse levels that the options do not fit; nothing is learned."""
        self._shares(teacher_shapes)
        channels, r = min(shape[0] for shape in teacher_shapes), self.options['num_eigenvectors']
        if 'spectral' in self.options['terms'] and r >= channels:
            raise ValueError(f'ChannelGraphLoss: num_eigenvectors={r} must be below the number of channels, {channels} '
                             'at one level')

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`."""
        shares = self._shares([x.shape[1:] for x in teacher_feats])
        levels = [level for level, share in enumerate(shares) if share]
        valids = valid_cells(teacher_feats, data_samples)
        values = channel_graph_levels(*([x[i] for i in levels] for x in (student_feats, teacher_feats, valids)),
                                      **self.options)
        losses = {term: [shares[level] * x for level, x in zip(levels, value, strict=True)]
                  for term, value in values.items()}
        for level, share in enumerate(shares):
            if not share:  # a connector of this level still needs a gradient under distributed training
                losses[self.options['terms'][0]].append((student_feats[level] * 0).sum())
        return losses

    def _shares(self, shapes: Sequence[tuple[int, int, int]]) -> list[float]:
        weights = [1.] * len(shapes) if self.level_weights is None else self.level_weights
        if weights == 'cells':
            weights = [height * width for _, height, width in shapes]
        if len(weights) != len(shapes):
            raise ValueError(f'level_weights has {len(weights)} entries for {len(shapes)} levels')
        return [w / sum(weights) for w in weights]
