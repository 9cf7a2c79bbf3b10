"""Controls of a study: distillation from a teacher whose maps say something else, or nothing.

A method that gains as much from these as from the teacher itself is a regulariser. A config names this file in
``custom_imports`` (``controls``, which is found where a script of this folder runs). Methods of maps alone are meant:
what a teacher's head predicts, and what is trained on the teacher beforehand, is not shuffled.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor

from mmgkd.connectors import NeckConnector

__all__ = ['SHUFFLES', 'ShuffledConnector']

SHUFFLES = ('channels', 'channels anew', 'images')


@MODELS.register_module()
class ShuffledConnector(NeckConnector):
    """The teacher's maps out of order.

    Args:
        shuffle (str): ``channels``: one order, the same for every training, another at each level. A graph is the same
            in any order, so without inherited parts, which know the right one, little should change.
            ``channels anew``: another order in each iteration, so that no channel of the student has a counterpart.
            ``images``: each image gets the maps of the next one in the batch, and a batch of one its own.
        options: Those of :class:`NeckConnector`.

    Raises:
        ValueError: The shuffle is unknown.
    """

    def __init__(self, *, shuffle: str, **options) -> None:
        super().__init__(**options)
        if shuffle not in SHUFFLES:
            raise ValueError(f'shuffle must be one of {SHUFFLES}, got {shuffle!r}')
        self.shuffle, self.count = shuffle, 0

    def forward(self, student_feats: Sequence[Tensor],
                teacher_feats: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """As :class:`NeckConnector`, the teacher's shuffled."""
        student_feats, teacher_feats = super().forward(student_feats, teacher_feats)
        self.count += self.shuffle == 'channels anew'
        return student_feats, [self._shuffled(level, x) for level, x in enumerate(teacher_feats)]

    def _shuffled(self, level: int, x: Tensor) -> Tensor:
        if self.shuffle == 'images':
            return x.roll(1, 0)
        return x[:, self._order(x.shape[1], level, x.device)]

    def _order(self, count: int, level: int, device: torch.device) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * self.count + level)  # whatever else is random stays as it is
        return torch.randperm(count, generator=generator).to(device)
