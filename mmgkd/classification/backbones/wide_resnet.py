"""Wide residual networks: blocks with the activation before each convolution."""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from .base import StagedBackbone

__all__ = ['WideResNet']


@MODELS.register_module()
class WideResNet(StagedBackbone):
    """WRN-(6n+4)-k of Zagoruyko and Komodakis (BMVC 2016) for images of 32 pixels.

    The first norm and ReLU of a stage stand at the end of the stage before it: the same function, in which every
    map that is returned has passed a ReLU, and is all that the next stage sees. Maps are of a stride of 1, 2 and 4.

    Args:
        depth (int): 6n + 4, such as 10, 16, 22, 28, 40.
        width (float): k: stages have 16, 32 and 64 channels times this.
        dropout (float): Probability, between the two convolutions of a block.
        out_indices (Sequence[int]): Stages to return the maps of.
        init_cfg (dict | list, optional): As MMEngine has it.

    Raises:
        ValueError: ``depth`` is not of that form, or ``width`` leaves no channel.
    """

    def __init__(self, *, depth: int, width: float = 1., dropout: float = 0., out_indices: Sequence[int] = (0, 1, 2),
                 init_cfg: dict | list | None = None) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f'WideResNet: depth must be 6n + 4 (10, 16, 22, ...), got {depth}')
        channels = [int(base * width) for base in (16, 32, 64)]
        if channels[0] < 1:
            raise ValueError(f'WideResNet: width={width} leaves no channel of 16')
        stages = []
        for i, (before, after) in enumerate(zip([16, *channels[:2]], channels, strict=True)):
            first = _Block(before, after, stride=1 if i == 0 else 2, activated=i > 0, dropout=dropout)
            rest = [_Block(after, after, dropout=dropout) for _ in range((depth - 4) // 6 - 1)]
            stages.append(nn.Sequential(first, *rest, nn.BatchNorm2d(after), nn.ReLU()))
        super().__init__(stem=nn.Conv2d(3, 16, 3, padding=1, bias=False), stages=stages, channels=channels,
                         out_indices=out_indices, init_cfg=init_cfg)


class _Block(nn.Module):
    """Norm, ReLU, convolution, twice, beside a shortcut; ``activated`` inputs have had the first norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, activated: bool = False,
                 dropout: float = 0.) -> None:
        super().__init__()
        self.norm1 = nn.Identity() if activated else nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU())
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        same = in_channels == out_channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        active = self.norm1(x)
        inner = F.dropout(F.relu(self.norm2(self.conv1(active))), self.dropout, self.training)
        return self.conv2(inner) + (x if self.shortcut is None else self.shortcut(active))
