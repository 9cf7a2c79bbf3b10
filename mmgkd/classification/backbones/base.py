"""What the backbones for small images have in common: a stem, then stages that each give a map."""
from __future__ import annotations

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

__all__ = ['StagedBackbone', 'conv_norm']

INIT = (dict(type='Kaiming', layer='Conv2d'), dict(type='Constant', layer='BatchNorm2d', val=1))
"""He's normal initialisation over the outputs of a convolution, norms that begin as the identity."""


class StagedBackbone(BaseModule):
    """A stem and stages that run one after another; the chosen stages' maps are what it returns.

    Args:
        stem (nn.Module): Takes the image.
        stages (Sequence[nn.Module]): Each takes what the one before it gives.
        channels (Sequence[int]): Of each stage's map.
        out_indices (Sequence[int], optional): The stages to return the maps of, in rising order; all by default.
        init_cfg (dict | list, optional): As MMEngine has it.

    Raises:
        ValueError: ``out_indices`` names stages that are not there, or not in order.
    """

    def __init__(self, *, stem: nn.Module, stages: Sequence[nn.Module], channels: Sequence[int],
                 out_indices: Sequence[int] | None = None, init_cfg: dict | list | None = None) -> None:
        super().__init__([dict(item) for item in INIT] if init_cfg is None else init_cfg)
        chosen = list(range(len(stages)) if out_indices is None else out_indices)
        if not chosen or chosen != sorted(set(chosen)) or not set(chosen) <= set(range(len(stages))):
            raise ValueError(f'{type(self).__name__}: out_indices must be stages from 0 to {len(stages) - 1} in rising '
                             f'order, got {out_indices}')
        self.stem, self.stages = stem, nn.ModuleList(stages)
        self.out_indices = tuple(chosen)
        self.out_channels = tuple(channels[i] for i in chosen)
        """Of the maps that :meth:`forward` returns."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, C, H, W) of each chosen stage for images (N, 3, H, W)."""
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                maps.append(x)
        return tuple(maps)


def conv_norm(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, groups: int = 1,
              bias: bool = False, relu: bool = True) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, a batch norm, and a ReLU unless there is to be none."""
    layers = [nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias),
              nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))
