"""A frozen detector in less time: its batch norms folded into convolutions, its maps with their channels last."""
from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.logging import print_log
from torch import Tensor, nn

from .detectors import PROBES
from .features import capture_output, feature_maps

__all__ = ['PARTS', 'maps_of', 'quick']

PARTS = ('backbone', 'neck')
"""What is changed."""


def quick(detector: nn.Module, maps_from: str, channels: int) -> tuple[nn.Module, torch.memory_format]:
    """The same function in less time, and the layout of images that it wants.

    Each convolution of backbone and neck and its batch norm become one, and maps have their channels last. Folding
    pairs layers by their order in the module, which need not be the order in which they run, and not every operator
    heeds a layout: so each result is compared on a probe.
    """
    layout = torch.contiguous_format
    if all(isinstance(m.running_mean, Tensor) and m.affine for m in detector.modules()
           if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        folded = _changed(detector, fuse_conv_bn)
        alike = _alike(detector, folded, maps_from, layout, channels)
        if alike:
            detector = folded
        else:
            why = 'no probe image runs through it here' if alike is None else 'they do not follow their convolutions'
            print_log(f'teacher: batch norms are not folded, since {why}', 'current')
    if not any(type(m).__module__.startswith('mmcv.ops') for m in detector.modules()):
        last = _changed(detector, lambda part: part.to(memory_format=torch.channels_last))
        if _alike(detector, last, maps_from, torch.channels_last, channels):
            detector, layout = last, torch.channels_last
    return detector.requires_grad_(False), layout


def maps_of(detector: nn.Module, module: str, inputs: Tensor, layout: torch.memory_format) -> tuple[Tensor, ...]:
    """What a module gives for images in a layout; contiguous, since there are operators that misread other maps."""
    with capture_output(getattr(detector, module)) as outputs:
        detector.extract_feat(inputs.contiguous(memory_format=layout))
    return tuple(x.contiguous() for x in feature_maps(outputs[0]))


def _changed(detector: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy with backbone and neck changed."""
    detector = copy.deepcopy(detector)
    for name in PARTS:
        if getattr(detector, name, None) is not None:
            setattr(detector, name, change(getattr(detector, name)))
    return detector


def _alike(one: nn.Module, other: nn.Module, maps_from: str, layout: torch.memory_format,
           channels: int) -> bool | None:
    """Whether the other gives the same maps of a random image in its layout, to rounding; None if neither gives any."""
    for side in PROBES:
        probe = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                expected = maps_of(one, maps_from, probe, torch.contiguous_format)
        except (AssertionError, RuntimeError):  # not an image of a size for it
            continue
        try:
            with torch.no_grad():
                found = maps_of(other, maps_from, probe, layout)
        except RuntimeError:  # an operator that refuses
            return False
        return all(torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(a)
                   for a, b in zip(expected, found, strict=True))
    return None
