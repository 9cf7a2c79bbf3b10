"""Losses from their configs, or what is wrong with one."""
from __future__ import annotations

import inspect

from mmdet.registry import MODELS
from torch import nn

from .base import DistillLoss

__all__ = ['build_losses']


def build_losses(configs: dict[str, dict]) -> nn.ModuleDict:
    """The losses of a distiller, by their names.

    Args:
        configs (dict[str, dict]): Name to config of each.

    Raises:
        ValueError: A name or an option does not do; the message says of which loss.
        TypeError: One is no distillation loss.
    """
    if not configs or not isinstance(configs, dict):
        raise ValueError('distill_losses must be a dict with a name for each loss, such as _base_.distill_losses of a '
                         f'method file of configs/_base_, got {configs!r}')
    if wrong := [name for name in configs if not name.isidentifier() or 'loss' in name]:
        raise ValueError(f'distill_losses: {wrong} cannot be names: they stand in logged names, where "loss" marks '
                         'what is trained on. Use short ones, such as gkd')
    losses = {name: _build(name, config) for name, config in configs.items()}
    for name, loss in losses.items():
        if not isinstance(loss, DistillLoss) or not hasattr(loss, 'weights'):
            raise TypeError(f'distill_losses.{name}: {type(loss).__name__} must derive from mmgkd.DistillLoss and set '
                            'weights, a factor for each of its terms (docs/methods.md, A method of your own)')
        if wrong := [term for term in loss.weights if 'loss' in term]:
            raise ValueError(f'{type(loss).__name__}: {wrong} cannot be names of terms: raw values are logged as '
                             f'{name}_<term>, and "loss" marks what is trained on')
    return nn.ModuleDict(losses)


def _build(name: str, config: dict) -> nn.Module:
    if not isinstance(config, dict) or 'type' not in config:
        raise ValueError(f'distill_losses.{name} must be a dict with a type, such as type="ChannelGraphLoss", got '
                         f'{config!r}: is the name of the loss misspelt?')
    try:
        return MODELS.build(config)
    except (KeyError, TypeError, ValueError) as error:
        said = error.args[0] if error.args else type(error).__name__
        raise ValueError(f'distill_losses.{name}: {said}{_options(config["type"], error)}') from error


def _options(kind: str | type, error: Exception) -> str:
    kind = MODELS.get(kind) if isinstance(kind, str) and isinstance(error, TypeError) else kind
    if not isinstance(error, TypeError) or not inspect.isclass(kind):
        return ''
    return f'. Its options are {", ".join(list(inspect.signature(kind).parameters))}'
