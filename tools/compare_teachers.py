"""The teachers of a comparison: those that are trained first, or the one that a pair gives, which is scored."""
from __future__ import annotations

import json
import os
import sys
from copy import deepcopy
from pathlib import Path

from compare_variants import TEACHER, alone
from mmengine.config import Config

from mmgkd.detectors import model_config
from mmgkd.preflight import InputError, check_testing, is_distiller


def own_teachers(pair: Config, configs: dict[str, Config]) -> tuple[dict[str, Config], dict[str, str]]:
    """The teachers that are trained first, the pair's as ``teacher``, and whose each is.

    They are those of config files. Another checkpoint than the pair's for the same file is somebody's choice.
    """
    teachers, whose = {}, {}
    for name, cfg in [('', pair), *configs.items()]:
        teacher = cfg.model.get('teacher', {}) if is_distiller(cfg) else {}
        file, usual = teacher.get('config'), pair.model.teacher
        if teacher.get('checkpoint') is None or not isinstance(file, str) or not os.path.isfile(file):
            continue
        if file == usual.get('config') and teacher.checkpoint != usual.get('checkpoint'):
            continue
        trained = Config.fromfile(file)
        trained.merge_from_dict(dict(model=deepcopy(teacher.get('overrides') or {})))
        known = [label for label, other in teachers.items() if other.pretty_text == trained.pretty_text]
        whose[name] = known[0] if known else f'{TEACHER} of {name}' if name else TEACHER
        teachers[whose[name]] = trained
    return teachers, whose


def given_teacher(pair: Config) -> Config | None:
    """The test of a pair's teacher, from the checkpoint it gives, on the images that its students are validated on.

    None of a teacher of random weights, and of one that cannot be scored there, of other classes, say, which is told.
    """
    teacher = pair.model.teacher
    if teacher.get('checkpoint') is None:
        return None
    cfg = alone(pair)
    cfg.model = model_config(teacher.config, teacher.get('overrides'), role='teacher')
    cfg.load_from = teacher.checkpoint
    cfg.test_dataloader, cfg.test_evaluator = (deepcopy(cfg.get(f'val_{part}')) for part in ('dataloader', 'evaluator'))
    cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')
    try:
        check_testing(cfg)
    except InputError as error:
        print(f'tools/compare.py: no row of the teacher, and nothing of a gap: {error}', file=sys.stderr)
        return None
    return cfg


def say_unused(pair: Config) -> None:
    """Tell who compares with a teacher of their own that another is trained beside it."""
    checkpoint = pair.model.teacher.checkpoint
    if '://' in checkpoint or os.path.isfile(checkpoint):
        print(f'tools/compare.py: a teacher is trained with each seed, by {pair.model.teacher.config}; to teach with '
              f'{checkpoint}, which the pair names, give --given-teacher', file=sys.stderr)


def tested(folder: Path) -> dict[str, float]:
    """What MMEngine measured in the last test that left its numbers in a folder; nothing if none did."""
    files = sorted(folder.glob('*/*.json'))
    return json.loads(files[-1].read_text()) if files else {}
