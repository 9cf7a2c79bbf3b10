"""What a comparison compares: a student alone, what it inherits, and every method and change that is asked for."""
from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from compare_changes import make_change
from machine import ROOT
from mmengine.config import Config

from mmgkd.config_parts import called
from mmgkd.detectors import model_config

METHODS = ROOT / 'configs' / '_base_'
ALONE, INHERIT, TEACHER = 'alone', 'inherit', 'teacher'


def folder_of(student: dict) -> str:
    """The folder of the method files that fit a student best."""
    if 'roi_head' in student:
        return ''
    return 'one_stage' if 'bbox_head' in student else 'classification'


def method_files(student: dict) -> dict[str, Path]:
    """Every method that fits a student, with its file."""
    from mmdet.models.dense_heads import GFLHead
    from mmdet.registry import MODELS
    folder = folder_of(student)
    files = {} if folder == 'classification' else {
        path.stem: path for path in METHODS.glob('*.py') if 'distill_losses' in path.read_text()}
    files |= {path.stem: path for path in (METHODS / folder).glob('*.py') if folder}
    if folder == 'one_stage' and not issubclass(MODELS.get(student['bbox_head']['type']), GFLHead):
        del files['ld']  # it compares distributions of box edges
    return dict(sorted(files.items()))


def variants(pair: Config, wanted: Sequence[str], epochs: int | None = None) -> dict[str, Config]:
    """The configs to train, by name: the student alone, what inheritance alone gives, and what is wanted.

    Args:
        pair (Config): A distillation.
        wanted (Sequence[str]): Methods by name, configs with ``distill_losses`` or whole trainings by path, each
            with changes after colons, see :mod:`compare_changes`: ``gkd:model.distill_losses.gkd.edge_weight=0``, or
            ``gkd:edge_weight=0`` for short, which is what its row is called.
        epochs (int, optional): Of all but whole trainings, instead of the pair's.
    """
    if epochs:
        pair = deepcopy(pair)
        pair.train_cfg.max_epochs = epochs
    found = {ALONE: alone(pair)}
    if pair.model.get('inherit'):
        found[INHERIT] = inheriting(pair)
    elif INHERIT in wanted:
        raise SystemExit(f'tools/compare.py: {INHERIT}: this pair inherits nothing (model.inherit)')
    known, references = method_files(model_config(pair.model.student)), dict(found)
    for label in known if list(wanted) == ['all'] else wanted:
        base, *changes = re.split(r':(?=[\w.]+\*?=)', label)
        if base not in references and Path(base).stem in (ALONE, INHERIT, TEACHER):
            raise SystemExit(f'tools/compare.py: {base} would be called {Path(base).stem}, which means another row: '
                             'give the file another name')
        cfg = deepcopy(references[base]) if base in references else variant(pair, base, known)
        for change in changes:
            make_change(cfg, change)
        name = ':'.join([Path(base).stem, *(re.sub(r'^[\w.]*\.(?=\w+=)', '', change) for change in changes)])
        if name in found and name not in references:
            raise SystemExit(f'tools/compare.py: two rows would be called {name}')
        found[name] = cfg
    return found


def variant(pair: Config, name: str, known: dict[str, Path]) -> Config:
    """A method on the pair, or a training of its own."""
    path = known.get(name, Path(name))
    if not path.is_file():
        raise SystemExit(f'tools/compare.py: no method {name!r}; for this student there are {", ".join(known)}, and '
                         'config files are named by their paths')
    cfg = Config.fromfile(str(path))
    if 'model' in cfg:
        return cfg
    if 'distill_losses' not in cfg:
        raise SystemExit(f'tools/compare.py: {path} defines no distill_losses: it is no method')
    return with_method(pair, cfg.distill_losses, cfg.get('distill_hooks', []),
                       cfg.get('custom_imports', {}).get('imports', []))


def alone(pair: Config) -> Config:
    """The training of the pair's student without any teacher."""
    cfg = without_method(pair)
    cfg.model = model_config(cfg.model.student)
    cfg.custom_hooks = own_hooks(pair)
    return cfg


def inheriting(pair: Config) -> Config:
    """The pair with its teacher at rest from the start, so that any loss will do."""
    resting = dict(resting=dict(type='SimilarityPreservingLoss'))
    return with_method(pair, resting, [dict(type='DistillWeightHook', decay_from=0, stop=0)])


def without_method(pair: Config) -> Config:
    """A copy without what a method file defines beside the model: another method's numbers are another training."""
    cfg = deepcopy(pair)
    for name in ('distill_losses', 'distill_hooks'):
        cfg.pop(name, None)
    return cfg


def own_hooks(pair: Config) -> list:
    """The hooks of a pair that are not a method's."""
    return [hook for hook in pair.get('custom_hooks') or []
            if called(hook).rpartition('.')[2] not in ('DistillWeightHook', 'PrepareLossesHook')]


def with_method(pair: Config, losses: dict, hooks: list, imports: Sequence[str] = ()) -> Config:
    """The pair with another method's losses, hooks and modules."""
    cfg = without_method(pair)
    cfg.model.distill_losses = losses
    cfg.custom_hooks = [*own_hooks(pair), *hooks]
    own = pair.get('custom_imports', {}).get('imports', [])
    cfg.custom_imports = dict(imports=list(dict.fromkeys(['mmgkd', *own, *imports])), allow_failed_imports=False)
    return cfg
