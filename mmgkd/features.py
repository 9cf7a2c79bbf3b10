"""Reading a model's maps: its output during a forward pass, and where their cells lie on the image."""
from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ['Call', 'NoMapsError', 'capture_calls', 'capture_output', 'evaluating', 'feature_maps', 'map_strides',
           'valid_cells']


class NoMapsError(TypeError):
    """A module that was to give maps gave something else."""


@contextmanager
def capture_output(module: nn.Module) -> Iterator[list]:
    """Collect what ``module`` returns at each call inside the context."""
    outputs: list = []
    handle = module.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


class Call(NamedTuple):
    """A call of a module: which, what it was given, in the order of its parameters, and what it returned."""
    name: str
    args: tuple
    output: object


@contextmanager
def capture_calls(modules: dict[nn.Module, str]) -> Iterator[list[Call]]:
    """Collect each call of the modules inside the context, in order, under the names given to them."""
    calls: list[Call] = []

    def keep(module, args, kwargs, output):
        given = inspect.signature(module.forward).bind(*args, **kwargs)
        calls.append(Call(modules[module], (*given.args, *given.kwargs.values()), output))
    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Without gradient and in eval mode, so that nothing is drawn or counted; every part is as before afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    try:
        with torch.no_grad():
            for m, _ in modes:
                m.training = False
            yield
    finally:
        for m, mode in modes:
            m.training = mode


def feature_maps(output: object) -> tuple[Tensor, ...]:
    """The output of a neck or a backbone as a tuple over levels of (N, C, H, W).

    Raises:
        NoMapsError: The output is not a map or a sequence of maps.
    """
    maps = (output,) if isinstance(output, Tensor) else output
    if not isinstance(maps, (tuple, list)) or not all(isinstance(x, Tensor) and x.dim() == 4 for x in maps):
        raise NoMapsError('a neck or backbone must return a map (N, C, H, W) or a sequence of them to be distilled, '
                          f'got {_described(output)}. Where an option of the model decides (out_indices, out_type, '
                          'gap_before_final_norm), set it in the config or by overrides')
    return tuple(maps)


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        return 'x'.join(map(str, output.shape))
    if isinstance(output, (tuple, list)):
        return f'({", ".join(map(_described, output))})'
    return type(output).__name__


def valid_cells(feats: Sequence[Tensor], data_samples: Sequence | None) -> list[Tensor | None]:
    """The cells of each level that lie, at least in part, on the image rather than on its padding.

    Args:
        feats (Sequence[Tensor]): (N, C, H, W) per level.
        data_samples (Sequence, optional): One per image, with ``img_shape`` (the image within the batch, without
            padding) and ``batch_input_shape`` (with it), both (height, width) in pixels, as mmdet's data
            preprocessor leaves them. Without them every cell counts. What a ``Pad`` of the pipeline adds is image to
            mmdet, and so here.

    Returns:
        list[Tensor | None]: (N, H, W) bool per level; ``None`` where no cell is padding.
    """
    if not data_samples or not all('batch_input_shape' in s.metainfo for s in data_samples):
        return [None] * len(feats)
    images = [s.img_shape[:2] for s in data_samples]
    return [_mask(images, x, strides) for x, strides in zip(feats, map_strides(feats, data_samples), strict=True)]


def map_strides(feats: Sequence[Tensor], data_samples: Sequence) -> list[tuple[float, float]]:
    """Pixels per cell of each level, down and across.

    A power of two where that explains the map's size, as in all common detectors: the rounding up of odd sizes
    then does not count.

    Args:
        feats (Sequence[Tensor]): (N, C, H, W) per level.
        data_samples (Sequence): One per image, with ``batch_input_shape``.
    """
    canvas = data_samples[0].batch_input_shape
    strides = []
    for feat in feats:
        down, across = (pixels / cells for pixels, cells in zip(canvas, feat.shape[2:], strict=True))
        power = 2. ** math.ceil(math.log2(max(down, across)))  # the least that needs no more cells
        explains = all(-(-pixels // power) == cells for pixels, cells in zip(canvas, feat.shape[2:], strict=True))
        strides.append((power, power) if explains else (down, across))
    return strides


def _mask(images: Sequence[tuple[int, int]], feat: Tensor, strides: tuple[float, float]) -> Tensor | None:
    cells = tuple(feat.shape[2:])
    # round first: where the quotient is a little more than whole, by floating point, no further cell is touched
    used = [tuple(min(-int(-round(pixels / stride, 6) // 1), size)
                  for pixels, stride, size in zip(image, strides, cells, strict=True)) for image in images]
    if all(u == cells for u in used):
        return None
    mask = feat.new_zeros(len(used), *cells, dtype=torch.bool)
    for image, (rows, columns) in zip(mask, used, strict=True):  # fills: a copy from the host would be waited for
        image[:rows, :columns] = True
    return mask
