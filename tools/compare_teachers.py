"""The teachers of a comparison: those that are trained first, or the one that a pair gives, which is scored."""
from __future__ import annotations

import os
import sys
from copy import deepcopy

from compare_identity import as_text
from compare_variants import TEACHER, alone
from mmengine.config import Config

from mmgkd.classes import class_counts, other_order
from mmgkd.config_parts import is_distiller
from mmgkd.detectors import model_config


def own_teachers(pair: Config, configs: dict[str, Config]) -> tuple[dict[str, Config], dict[str, str]]:
    """The teachers that are trained first, the pair's as ``teacher``, and whose each is.

    They are those of config files. Another checkpoint than the pair's for the same file is somebody's choice.
    """
    teachers, whose, read, labels = {}, {}, {}, {}
    for name, cfg in [('', pair), *configs.items()]:
        teacher = cfg.model.get('teacher', {}) if is_distiller(cfg) else {}
        file, usual = teacher.get('config'), pair.model.teacher
        if teacher.get('checkpoint') is None or not isinstance(file, str) or not os.path.isfile(file):
            continue
        if file == usual.get('config') and teacher.checkpoint != usual.get('checkpoint'):
            continue
        told = as_text([file, teacher.get('overrides')])
        if told not in read:
            trained = Config.fromfile(file)
            trained.merge_from_dict(dict(model=deepcopy(teacher.get('overrides') or {})))
            label = f'{TEACHER} of {name}' if name else TEACHER
            read[told] = labels.setdefault(as_text(trained.to_dict()), label)
            teachers.setdefault(read[told], trained)
        whose[name] = read[told]
    return teachers, whose


def row_of(name: str, cfg: Config, pair: Config, whose: dict[str, str]) -> str:
    """The row of a training's teacher; the pair's of what has none, and a name of no row for one that has no score."""
    if name in whose:
        return whose[name]
    checkpoint = cfg.model.teacher.get('checkpoint') if is_distiller(cfg) else None
    return TEACHER if checkpoint in (None, pair.model.teacher.get('checkpoint')) else f'{TEACHER} of {name}'


def given_teacher(pair: Config) -> Config | None:
    """The test of a pair's teacher, from the checkpoint it gives, on the images that its students are validated on.

    None of a teacher of random weights, and of one that cannot be scored there, which is told.
    """
    if pair.model.teacher.get('checkpoint') is None:
        return None
    try:
        cfg = scored_teacher(pair)
        known, asked = ({count for _, count in class_counts(model)} for model in (cfg.model, alone(pair).model))
        why = (f'it knows {_some(known)} classes, its student {_some(asked)}' if known != asked else other_order(pair))
        if not why:
            return cfg
        why = f'{why}. It teaches all the same'
    except Exception as error:  # of whatever kind; who trains with it is told as well
        why = error
    print(f'tools/compare.py: the teacher gets no row: {why}', file=sys.stderr)
    return None


def scored_teacher(pair: Config) -> Config:
    """The pair's student's config with the teacher as the model, and the validation as the test."""
    cfg, teacher = alone(pair), pair.model.teacher
    cfg.model = model_config(teacher.config, teacher.get('overrides'), role='teacher')
    cfg.load_from = teacher.checkpoint
    cfg.test_dataloader, cfg.test_evaluator = (deepcopy(cfg.get(f'val_{part}')) for part in ('dataloader', 'evaluator'))
    cfg.test_cfg = cfg.get('test_cfg') or dict(type='TestLoop')
    return cfg


def _some(counts: set[int]) -> str:
    return ' and '.join(map(str, sorted(counts))) or 'no'


def say_unused(pair: Config) -> None:
    """Tell who compares with a teacher of their own that another is trained beside it."""
    checkpoint = pair.model.teacher.checkpoint
    if '://' in checkpoint or os.path.isfile(checkpoint):
        print(f'tools/compare.py: a teacher is trained with each seed, by {pair.model.teacher.config}; to teach with '
              f'{checkpoint}, which the pair names, give --given-teacher', file=sys.stderr)
