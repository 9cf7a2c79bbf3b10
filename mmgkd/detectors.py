"""Models from configs: what the student and the teacher have in common."""
from __future__ import annotations

import os
from copy import deepcopy
from typing import NamedTuple

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.hub import get_config

from .features import NoMapsError, feature_maps

__all__ = ['PROBES', 'Maps', 'distilled_maps', 'image_channels', 'matching_maps', 'model_config', 'read_source']

PROBES = (128, 512, 224, 384)
"""Sides of the square images, in pixels, that models are probed with, each where those before do not do: SSD needs more
than 128, and some classifiers (VGG, transformers) the size that they are trained for."""


class Maps(NamedTuple):
    """The maps of a model that are distilled.

    Attributes:
        module (str): What gives them: ``neck``, or ``backbone`` where there is no neck or it gives no maps, as in
            classifiers.
        shapes (list[tuple]): (C, H, W) of each level, for the probe image.
    """
    module: str
    shapes: list[tuple[int, int, int]]


def model_config(source: str | dict, overrides: dict | None = None, *, role: str = 'student') -> ConfigDict:
    """The model config of a detector or a classifier.

    Args:
        source (str | dict): A config file, an ``mmdet::`` name, a model config itself (with ``type``), or
            ``dict(config=..., overrides=...)``.
        overrides (dict, optional): Merged into the model config, such as
            ``dict(roi_head=dict(bbox_head=dict(num_classes=20)))``.
        role (str): For messages: whose config this is.

    Raises:
        FileNotFoundError: There is no such config.
        ValueError: It has no model, or the model has no backbone.
    """
    if isinstance(source, dict) and 'config' in source:
        if unknown := sorted(set(source) - {'config', 'overrides'}):
            raise ValueError(f'{role}: unknown keys {unknown} beside config and overrides')
        source, overrides = source['config'], source.get('overrides', overrides)
    if isinstance(source, dict):
        model = Config(dict(model=source)).model
    elif isinstance(source, str):
        config = read_source(source, role)
        model = config.get('model')
        if model and config.get('data_preprocessor'):  # where mmpretrain has it; MMEngine's runner does as much
            model.setdefault('data_preprocessor', config.data_preprocessor)
        if model and config.get('default_scope'):  # where its modules are found, whatever the scope of the training
            model.setdefault('_scope_', config.default_scope)
    else:
        raise TypeError(f'{role} must be a config file, an mmdet:: name or a dict, got {type(source).__name__}')
    if not model or 'type' not in model:
        raise ValueError(f'{role}: {source if isinstance(source, str) else "the dict"} holds no model with a type')
    if overrides:
        config = Config(dict(model=model))
        try:
            config.merge_from_dict(dict(model=deepcopy(overrides)))  # merging takes _delete_ out of what it is given
        except (KeyError, TypeError) as error:
            raise ValueError(f'{role}: overrides {overrides} do not fit its config: {error}. A part that is a list '
                             "there is changed by position, such as bbox_head={'0': dict(num_classes=3)}") from error
        model = config.model
    if not model.get('backbone'):
        raise ValueError(f'{role}: {model.type} has no backbone, and what is distilled are the maps of a neck or a '
                         'backbone: give the config of a detector or a classifier')
    return model


def matching_maps(student: ConfigDict, teacher: ConfigDict) -> tuple[Maps, Maps]:
    """The :func:`distilled_maps` of both for one image of a size that does for either.

    Raises:
        ValueError: They read images of other numbers of channels.
    """
    if image_channels(student) != image_channels(teacher):
        raise ValueError(f'the student reads images of {image_channels(student)} channels, the teacher of '
                         f'{image_channels(teacher)} (backbone.in_channels): both see the same batch')
    errors = []
    for side in PROBES:
        try:
            return distilled_maps(student, side), distilled_maps(teacher, side)
        except (AssertionError, RuntimeError) as error:
            errors.append(error)
    raise errors[0]


def image_channels(model: ConfigDict) -> int:
    """Those of the images that a model reads: what its backbone's config says, or 3."""
    return model.backbone.get('in_channels', 3)


def distilled_maps(model: ConfigDict, side: int = PROBES[0]) -> Maps:
    """Where a model's maps come from, and their shapes for one square image of ``side`` pixels.

    Found by a forward pass without memory or arithmetic where every operator allows it, else by a real one, on the
    accelerator if an operator is for that alone (CARAFE): necks do not all say how many channels they give.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            return _probe(model, side, 'meta')
        except (NotImplementedError, RuntimeError, TypeError):  # an operator without shape-only form
            pass
        try:
            return _probe(model, side, 'cpu')
        except RuntimeError as error:
            if 'implementation for device cpu' not in str(error) or get_device() == 'cpu':
                raise
            return _probe(model, side, get_device())


def _probe(model: ConfigDict, side: int, device: str) -> Maps:
    with torch.device(device), torch.no_grad():
        with MODELS.switch_scope_and_registry(model.get('_scope_')) as registry:
            modules = [registry.build(model[name]) for name in ('backbone', 'neck') if model.get(name)]
        for module in modules:
            module.eval()  # not in one line with the building: mmdet's return nothing
        outputs = [torch.zeros(1, image_channels(model), side, side)]
        for module in modules:
            outputs.append(module(outputs[-1]))
        try:
            return Maps(('backbone', 'neck')[len(modules) - 1], _shapes(outputs[-1]))
        except NoMapsError:  # a classifier's pooling
            return Maps('backbone', _shapes(outputs[1]))


def _shapes(output: object) -> list[tuple[int, int, int]]:
    return [tuple(x.shape[1:]) for x in feature_maps(output)]


def read_source(source: str, role: str) -> Config:
    """A config from its file or its name in a package, ``mmdet::folder/name.py``.

    Raises:
        FileNotFoundError: There is none.
    """
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
