"""Detectors from configs: what the student and the teacher have in common."""
from __future__ import annotations

import os

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from torch import nn

from .features import feature_maps

__all__ = ['PROBES', 'matching_shapes', 'model_config', 'neck_shapes']

PROBES = (128, 512)
"""Sides of the square images, in pixels, that necks are probed with, the second where the first is too small (SSD)."""


def model_config(source: str | dict, overrides: dict | None = None, *, role: str = 'student') -> ConfigDict:
    """A detector's model config.

    Args:
        source (str | dict): A config file, an ``mmdet::`` name, a model config itself (with ``type``), or
            ``dict(config=..., overrides=...)``.
        overrides (dict, optional): Merged into the model config, such as
            ``dict(roi_head=dict(bbox_head=dict(num_classes=20)))``.
        role (str): For messages: whose config this is.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It has no model, or the model has no neck.
    """
    if isinstance(source, dict) and 'config' in source:
        if unknown := sorted(set(source) - {'config', 'overrides'}):
            raise ValueError(f'{role}: unknown keys {unknown} beside config and overrides')
        source, overrides = source['config'], source.get('overrides', overrides)
    if isinstance(source, dict):
        model = Config(dict(model=source)).model
    elif isinstance(source, str):
        model = _read(source, role).get('model')
    else:
        raise TypeError(f'{role} must be a config file, an mmdet:: name or a dict, got {type(source).__name__}')
    if not model or 'type' not in model:
        raise ValueError(f'{role}: {source if isinstance(source, str) else "the dict"} holds no model with a type')
    if overrides:
        config = Config(dict(model=model))
        config.merge_from_dict(dict(model=overrides))
        model = config.model
    if not model.get('neck'):
        raise ValueError(f'{role}: {model.type} has no neck, and maps are distilled at the neck: '
                         'choose a detector with one (FPN, ChannelMapper, ...)')
    return model


def matching_shapes(student: ConfigDict, teacher: ConfigDict) -> tuple[list, list]:
    """The :func:`neck_shapes` of both for one image that is large enough for either."""
    small, large = PROBES
    try:
        return neck_shapes(student, small), neck_shapes(teacher, small)
    except RuntimeError:
        return neck_shapes(student, large), neck_shapes(teacher, large)


def neck_shapes(model: ConfigDict, side: int = PROBES[0]) -> list[tuple[int, int, int]]:
    """(C, H, W) of each level of a detector's neck for one square image of ``side`` pixels.

    Found by a forward pass without memory or arithmetic where every operator allows it, else by a real one:
    necks do not all say how many channels they give.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            return _probe(model, side, 'meta')
        except (NotImplementedError, RuntimeError, TypeError):  # an operator without shape-only form
            return _probe(model, side, 'cpu')


def _probe(model: ConfigDict, side: int, device: str) -> list[tuple[int, int, int]]:
    with torch.device(device), torch.no_grad():
        stages = nn.Sequential(MODELS.build(model.backbone), MODELS.build(model.neck)).eval()
        return [tuple(x.shape[1:]) for x in feature_maps(stages(torch.zeros(1, 3, side, side)))]


def _read(source: str, role: str) -> Config:
    if '::' in source:
        try:
            return get_config(source)
        except Exception as error:
            raise FileNotFoundError(f'{role}: no config {source!r} in the installed package ({error})') from error
    if not os.path.isfile(source):
        raise FileNotFoundError(f'{role}: no config file {source!r} (looked in {os.getcwd()}): give a path from '
                                "there, an absolute one, '{{ fileDirname }}/...' for one beside your config, or "
                                "'mmdet::folder/name.py'")
    return Config.fromfile(source)
