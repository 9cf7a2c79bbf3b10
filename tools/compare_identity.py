"""When two trainings are the same: by what they are told and read, wherever the files lie, and not by the code."""
from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from jobs import digest
from machine import ROOT
from mmengine.config import Config

from mmgkd.config_parts import innermost, is_distiller
from mmgkd.detectors import model_config

WEIGHTS = ('.pth', '.pt', '.pkl')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def identity(cfg: Config, teacher: str = '') -> str:
    """A digest of a training: its config, with the models that it names, and the content of the files that it reads.

    Args:
        cfg (Config): Of the training, with its seed.
        teacher (str): The identity of its teacher's training, if that is trained too: it stands for the checkpoint.
    """
    values = cfg.to_dict() | dict(work_dir=None)
    if is_distiller(cfg):
        model = values['model'] = dict(values['model'])
        told = model['teacher'] = dict(model['teacher'])
        model['student'] = model_config(cfg.model.student).to_dict()
        told['config'] = _teacher(as_text([told['config'], told.pop('overrides', None)]), _changed(told['config']))
        told['checkpoint'] = teacher or told.get('checkpoint')
    text = as_text(values)
    return digest(text.replace(f'{ROOT}/', ''), *(content(path) for path in files_read(cfg, json.loads(text))))


@functools.lru_cache(None)
def _teacher(told: str, _changed: int) -> dict:
    config, overrides = json.loads(told)
    return model_config(config, overrides, role='teacher').to_dict()


def _changed(config: str | dict) -> int:
    path = Path(config) if isinstance(config, str) else ROOT
    return path.stat().st_mtime_ns if path.is_file() else 0


def as_text(value) -> str:
    """The values of a config as JSON, the same for equal ones; a hundred times as fast as its ``pretty_text``."""
    return json.dumps(_plain(value), default=str)


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def files_read(cfg: Config, values: dict) -> list[Path]:
    """The annotations and the weights that are there; of weights yet to come, and of images, nothing is known."""
    weights = [Path(text) for text in _texts(values) if text.endswith(WEIGHTS)]
    return sorted({*annotations(cfg), *(path for path in weights if path.is_file())})


def annotations(cfg: Config) -> list[Path]:
    """Those of the data that are trained, validated and tested on, if they are there."""
    found = [Path(part.get('data_root') or '') / (part.get('ann_file') or '')
             for loader in LOADERS if cfg.get(loader) for part in innermost(cfg[loader].dataset)]
    return [path for path in dict.fromkeys(found) if path.is_file()]


def _texts(value) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def content(path: Path) -> str:
    """A SHA-256 of a file."""
    return _content(path.resolve(), path.stat().st_mtime_ns)


@functools.lru_cache(None)
def _content(path: Path, _changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
