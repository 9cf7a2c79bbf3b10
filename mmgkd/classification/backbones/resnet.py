"""The ResNets for images of 32 pixels: three stages of basic blocks."""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from .base import StagedBackbone, conv_norm

__all__ = ['CifarResNet']


@MODELS.register_module()
class CifarResNet(StagedBackbone):
    """ResNet-(6n+2) of He et al. (CVPR 2016), section 4.2, in any width; its shortcuts are 1x1 convolutions.

    ResNet8x4 and ResNet32x4 of the distillation benchmarks are ``width=4``: stages of 64, 128 and 256 channels.
    Maps are those after the last ReLU of a stage, of a stride of 1, 2 and 4.

    Args:
        depth (int): 6n + 2, such as 8, 20, 32, 56.
        width (float): Stages have 16, 32 and 64 channels times this.
        stem_channels (int, optional): By default 16, and 32 for widths above 1, as the benchmarks have it.
        out_indices (Sequence[int]): Stages to return the maps of.
        init_cfg (dict | list, optional): As MMEngine has it.

    Raises:
        ValueError: ``depth`` is not of that form, or ``width`` leaves no channel.
    """

    def __init__(self, *, depth: int, width: float = 1., stem_channels: int | None = None,
                 out_indices: Sequence[int] = (0, 1, 2), init_cfg: dict | list | None = None) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f'CifarResNet: depth must be 6n + 2 (8, 14, 20, ...), got {depth}')
        channels = [int(base * width) for base in (16, 32, 64)]
        if channels[0] < 1:
            raise ValueError(f'CifarResNet: width={width} leaves no channel of 16')
        stem = stem_channels or (32 if width > 1 else 16)
        stages = [_stage(before, after, (depth - 2) // 6, stride)
                  for before, after, stride in zip([stem, *channels[:2]], channels, (1, 2, 2), strict=True)]
        super().__init__(stem=conv_norm(3, stem, 3), stages=stages, channels=channels, out_indices=out_indices,
                         init_cfg=init_cfg)


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, added before the ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(conv_norm(in_channels, out_channels, 3, stride=stride),
                                      conv_norm(out_channels, out_channels, 3, relu=False))
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, 1, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(in_channels, out_channels, stride),
                         *(_Block(out_channels, out_channels, 1) for _ in range(blocks - 1)))
