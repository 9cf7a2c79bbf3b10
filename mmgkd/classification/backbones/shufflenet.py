"""ShuffleNetV2 for images of 32 pixels."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from .base import StagedBackbone, conv_norm

__all__ = ['CifarShuffleNetV2']

CHANNELS = {0.5: (48, 96, 192, 1024), 1: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024), 2: (244, 488, 976, 2048)}
"""Of the stages, by the size of the network, as in the paper's table 5."""


@MODELS.register_module()
class CifarShuffleNetV2(StagedBackbone):
    """ShuffleNetV2 of Ma et al. (ECCV 2018) with a 1x1 stem without stride, as in CRD's benchmark.

    Four maps, of a stride of 2, 4, 8 and 8; the last is what the classifier sees.

    Args:
        size (float): 0.5, 1, 1.5 or 2.
        out_indices (Sequence[int]): Stages to return the maps of.
        init_cfg (dict | list, optional): As MMEngine has it.

    Raises:
        ValueError: ``size`` is none of these.
    """

    def __init__(self, *, size: float = 1, out_indices: Sequence[int] = (0, 1, 2, 3),
                 init_cfg: dict | list | None = None) -> None:
        if size not in CHANNELS:
            raise ValueError(f'CifarShuffleNetV2: size must be one of {sorted(CHANNELS)}, got {size}')
        channels = CHANNELS[size]
        stages = [nn.Sequential(_Halving(before, after), *(_Block(after) for _ in range(count)))
                  for before, after, count in zip([24, *channels[:2]], channels[:3], (3, 7, 3), strict=True)]
        stages.append(conv_norm(channels[2], channels[3], 1))
        super().__init__(stem=conv_norm(3, 24, 1), stages=stages, channels=channels, out_indices=out_indices,
                         init_cfg=init_cfg)


class _Block(nn.Module):
    """Half of the channels pass, half are convolved; then the halves are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        return _shuffle(torch.cat([kept, self.branch(changed)], dim=1))


class _Halving(nn.Module):
    """Two branches of stride 2, side by side, shuffled."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.left = nn.Sequential(conv_norm(in_channels, in_channels, 3, stride=2, groups=in_channels, relu=False),
                                  conv_norm(in_channels, out_channels // 2, 1))
        self.right = _branch(in_channels, out_channels // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return _shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


def _branch(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_norm(in_channels, out_channels, 1),
        conv_norm(out_channels, out_channels, 3, stride=stride, groups=out_channels, relu=False),
        conv_norm(out_channels, out_channels, 1))


def _shuffle(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels."""
    return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)  # (N, C, H, W)
