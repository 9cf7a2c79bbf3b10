"""MobileNetV2 for images of 32 pixels."""
from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import MODELS
from torch import Tensor, nn

from .base import StagedBackbone, conv_norm

__all__ = ['CifarMobileNetV2']

STAGES = (((1, 16, 1, 1), (None, 24, 2, 1)), ((None, 32, 3, 2),), ((None, 64, 4, 2), (None, 96, 3, 1)),
          ((None, 160, 3, 2), (None, 320, 1, 1)))
"""(expansion, channels, blocks, stride) of each group of a stage; None is the expansion of the network."""


@MODELS.register_module()
class CifarMobileNetV2(StagedBackbone):
    """MobileNetV2 of Sandler et al. (CVPR 2018) with the strides of CRD's benchmark, where T=6 and W=0.5.

    Five maps, of a stride of 2, 4, 8, 16 and 16. The first four are bottlenecks, which are linear: they alone of all
    these backbones' maps have passed no ReLU. The fifth has 1280 channels and is what the classifier sees.

    Args:
        width (float): Factor on all channels but the last, which it can only raise.
        expansion (int): Of the inner channels of a block.
        out_indices (Sequence[int]): Stages to return the maps of.
        init_cfg (dict | list, optional): As MMEngine has it.

    Raises:
        ValueError: ``width`` leaves no channel, or ``expansion`` is below 1.
    """

    def __init__(self, *, width: float = 0.5, expansion: int = 6, out_indices: Sequence[int] = (0, 1, 2, 3, 4),
                 init_cfg: dict | list | None = None) -> None:
        if int(16 * width) < 1 or expansion < 1:
            raise ValueError('CifarMobileNetV2: width must leave a channel of 16 and expansion be at least 1, got '
                             f'width={width}, expansion={expansion}')
        stem = before = int(32 * width)
        stages, channels = [], []
        for groups in STAGES:
            blocks = []
            for factor, base, count, stride in groups:
                after = int(base * width)
                for i in range(count):
                    blocks.append(_Block(before, after, stride if i == 0 else 1, factor or expansion))
                    before = after
            stages.append(nn.Sequential(*blocks))
            channels.append(before)
        channels.append(int(1280 * max(width, 1)))
        stages.append(conv_norm(before, channels[-1], 1))
        super().__init__(stem=conv_norm(3, stem, 3, stride=2), stages=stages, channels=channels,
                         out_indices=out_indices, init_cfg=init_cfg)


class _Block(nn.Module):
    """The inverted residual: expand, convolve each channel, project without an activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.residual = nn.Sequential(
            conv_norm(in_channels, inner, 1), conv_norm(inner, inner, 3, stride=stride, groups=inner),
            conv_norm(inner, out_channels, 1, relu=False))
        self.shortcut = in_channels == out_channels and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x) if self.shortcut else self.residual(x)
