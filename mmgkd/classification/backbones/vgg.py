"""VGG with batch norm for images of 32 pixels."""
from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import MODELS
from torch import nn

from .base import StagedBackbone, conv_norm

__all__ = ['CifarVGG']

BLOCKS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions per stage, by depth; where the depth is larger than their sum, three linear layers once were there."""
CHANNELS = (64, 128, 256, 512, 512)


@MODELS.register_module()
class CifarVGG(StagedBackbone):
    """VGG of Simonyan and Zisserman (ICLR 2015) with batch norm and a single linear classifier, as in CRD's benchmark.

    Maps are those after the last ReLU of a stage, of a stride of 1, 2, 4, 8 and 8: the last two stages see the same
    size.

    Args:
        depth (int): 8, 11, 13, 16 or 19.
        out_indices (Sequence[int]): Stages to return the maps of.
        init_cfg (dict | list, optional): As MMEngine has it.

    Raises:
        ValueError: ``depth`` is none of these.
    """

    def __init__(self, *, depth: int, out_indices: Sequence[int] = (0, 1, 2, 3, 4),
                 init_cfg: dict | list | None = None) -> None:
        if depth not in BLOCKS:
            raise ValueError(f'CifarVGG: depth must be one of {sorted(BLOCKS)}, got {depth}')
        stages, before = [], 3
        for i, (count, after) in enumerate(zip(BLOCKS[depth], CHANNELS, strict=True)):
            layers = [nn.MaxPool2d(2)] if i in (1, 2, 3) else []
            for _ in range(count):
                layers.append(conv_norm(before, after, 3, bias=True))
                before = after
            stages.append(nn.Sequential(*layers))
        super().__init__(stem=nn.Identity(), stages=stages, channels=CHANNELS, out_indices=out_indices,
                         init_cfg=init_cfg)
