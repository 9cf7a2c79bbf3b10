"""ImageNet backbones for mmdet's configs, which name them ``torchvision://resnet50``."""
from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import mmengine
import torch
from mmengine.fileio import load
from mmengine.runner import CheckpointLoader

from .checkpoint import fetch

__all__ = ['backbone_addresses', 'register_torchvision_scheme']

SCHEME = 'torchvision://'


def register_torchvision_scheme() -> None:
    """Make the scheme work where torchvision is not installed.

    MMEngine imports torchvision for the addresses of its files, and nothing else; it carries a list of them itself.
    """
    if importlib.util.find_spec('torchvision') is None:
        CheckpointLoader.register_scheme(prefixes=SCHEME, loader=_load, force=True)


def backbone_addresses(model: object) -> Iterator[str]:
    """The URL of every ``torchvision://`` checkpoint that a model config starts from."""
    if isinstance(model, dict):
        for key, value in model.items():
            if key == 'checkpoint' and isinstance(value, str) and value.startswith(SCHEME):
                yield _address(value)
            else:
                yield from backbone_addresses(value)
    elif isinstance(model, (list, tuple)):
        for item in model:
            yield from backbone_addresses(item)


def _load(filename: str, map_location=None) -> dict:
    return torch.load(fetch(_address(filename)), map_location=map_location, weights_only=True)


def _address(name: str) -> str:
    known = load(os.path.join(mmengine.__path__[0], 'hub', 'torchvision_0.12.json'))
    model = name.removeprefix(SCHEME)
    if model not in known:
        raise FileNotFoundError(f'no backbone {model!r} among torchvision\'s ({", ".join(sorted(known)[:5])}, ...)')
    return known[model]
