"""What can be wrong with a user's files, found before anything long starts."""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope

from .annotations import unknown_names
from .checkpoint import fetch, local_rank
from .classes import class_counts, dataset_classes, dataset_type, other_order
from .config_parts import called, innermost, is_distiller
from .detectors import model_config, read_source
from .losses.base import DistillLoss
from .losses.building import build_losses
from .pretrained import backbone_addresses
from .readings import needed_readings
from .student import parse_inherit
from .teacher import Teacher

__all__ = ['InputError', 'check_distiller', 'check_testing', 'check_training', 'is_classifier', 'read_config']


class InputError(Exception):
    """A mistake in what the user gave; its text says what was expected, what was found and what to do."""


def read_config(path: str, options: dict | None, work_dir: str | None, launcher: str) -> Config:
    """A config, from a file or by its name in a package, with the options common to all tools in it."""
    if '::' not in path and not os.path.isfile(path):
        raise InputError(f'no config file {path!r} (looked in {os.getcwd()})')
    try:
        cfg = read_source(path, 'config')
        cfg.merge_from_dict(options or {})
    except Exception as error:
        raise InputError(f'config {path}: {type(error).__name__}: {error}') from error
    if not cfg.get('model'):
        raise InputError(f'config {path} has no model: it is a part of a config, name one that is whole')
    cfg.launcher = launcher
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', os.path.splitext(
        os.path.basename(path))[0])
    return cfg


def check_training(cfg: Config) -> None:
    """Refuse a config whose data, teacher, checkpoints or classes are not there or do not fit.

    Raises:
        InputError: The first thing that is wrong.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if is_distiller(cfg):
        check_distiller(cfg)
    for loader in ('train_dataloader', 'val_dataloader'):
        if cfg.get(loader):
            _check_data(cfg[loader].dataset, loader, _student(cfg))
    _check_metric(cfg, 'val_evaluator')
    if is_distiller(cfg) and cfg.model.teacher.get('checkpoint') is not None:
        _check_checkpoint(cfg.model.teacher.checkpoint, 'teacher')
        _check_order(cfg)
    if cfg.get('load_from'):
        _check_start(cfg.load_from, 'load_from')
        if is_distiller(cfg) and cfg.model.get('inherit') and not cfg.get('resume'):
            raise InputError(f'load_from={cfg.load_from!r} would overwrite what model.inherit={cfg.model.inherit!r} '
                             'copies from the teacher: leave one out, load_from=None or model.inherit=None')
    elif not cfg.get('resume'):
        for address in backbone_addresses(_student(cfg)):
            _check_checkpoint(address, 'the student\'s backbone')


def check_testing(cfg: Config) -> None:
    """Refuse a config whose test data or checkpoint is not there or does not fit.

    Raises:
        InputError: The first thing that is wrong.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if not cfg.get('test_dataloader'):
        raise InputError(f'config {cfg.filename} has no test_dataloader')
    _check_data(cfg.test_dataloader.dataset, 'test_dataloader', _student(cfg))
    _check_metric(cfg, 'test_evaluator')
    _check_start(cfg.load_from, 'checkpoint')


def is_classifier(cfg: Config) -> bool:
    """Whether the model, or the student in it, sorts images into classes and finds no boxes.

    Raises:
        InputError: There is no telling, for want of the student's config.
    """
    return 'head' in _student(cfg)


def _student(cfg: Config) -> ConfigDict:
    if not is_distiller(cfg):
        return cfg.model
    try:
        return model_config(cfg.model.student)
    except Exception as error:
        raise InputError(f'{type(error).__name__}: {error}') from error


def check_distiller(cfg: Config) -> None:
    """Refuse a distillation whose student, teacher or losses are not there or take no such options.

    Raises:
        InputError: The first thing that is wrong.
    """
    model = cfg.model
    if 'backbone' in model:
        raise InputError('model has the parts of a detector (backbone, ...) beside type=\'Distiller\': the student\'s '
                         'config is a base of this one, so write model=dict(_delete_=True, type=\'Distiller\', ...)')
    for name, given in (('student', '_base_.model'), ('teacher', 'dict(config=..., checkpoint=...)'),
                        ('distill_losses', '_base_.distill_losses')):
        if name not in model:
            raise InputError(f'model has no {name}, such as {name}={given}')
    if not isinstance(model.teacher, dict) or not {'config', 'checkpoint'} <= set(model.teacher):
        raise InputError(f'model.teacher must be dict(config=..., checkpoint=...), got {model.teacher!r}')
    try:
        losses = build_losses(model.distill_losses)
        parse_inherit(model.get('inherit'))
        Teacher(**model.teacher).model_config()
    except Exception as error:
        raise InputError(f'{type(error).__name__}: {error}') from error
    _check_rules(losses, cfg)


def _check_rules(losses: Mapping[str, DistillLoss], cfg: Config) -> None:
    """A loss whose gradient is held down needs the hook that tells the epoch, by which the rule goes."""
    held = [name for name, loss in losses.items() if loss.gradient_rule != 'none']
    if held and 'PrepareLossesHook' not in [called(hook).rpartition('.')[2] for hook in cfg.get('custom_hooks') or ()]:
        raise InputError(f'distill_losses.{held[0]}: its gradient_rule goes by the epoch, which nobody tells it: add '
                         "dict(type='PrepareLossesHook') to custom_hooks")


def _check_start(path: str, role: str) -> None:
    """A checkpoint that the runner reads, which may be of a scheme that MMEngine alone knows, such as ``s3://``."""
    if '://' not in path or path.startswith(('http://', 'https://')):
        _check_checkpoint(path, role)


def _check_checkpoint(path: str, role: str) -> None:
    if '://' in path and local_rank() != 0:
        return  # one process of a machine downloads
    try:
        fetch(path)
    except FileNotFoundError as error:
        raise InputError(f'{role}: {error}') from error


def _check_order(cfg: Config) -> None:
    """A head that is inherited, and predictions that are compared, mean the teacher's classes in its order."""
    needs = set(needed_readings(build_losses(cfg.model.distill_losses).values())) - {'proposals', 'instance_logits'}
    if 'head' not in parse_inherit(cfg.model.get('inherit')) and not needs:
        return
    try:
        said = other_order(cfg)
    except ValueError as error:
        raise InputError(f'teacher: {error}') from error
    if said:
        raise InputError(f'teacher: {said}. Its head would be inherited, or its predictions distilled, for the wrong '
                         'ones: give the data sets of all loaders its order, metainfo=dict(classes=(...)) and, in '
                         "COCO's layout, the file's categories, which decide there; or do without both")


def _check_data(dataset: ConfigDict, loader: str, student: ConfigDict) -> None:
    open_vocabulary = 'language_model' in student  # num_classes then counts the tokens of a text
    for part in innermost(dataset):
        root = part.get('data_root') or ''
        prefix = part.get('data_prefix') or {}
        prefixes = {f'data_prefix.{k}': v for k, v in prefix.items()} if isinstance(prefix, dict) else {
            'data_prefix': prefix}  # mmpretrain has a path alone
        files = [('ann_file', part.get('ann_file')), *prefixes.items()]
        for name, value in files:
            path = os.path.join(root, value) if isinstance(value, str) else None
            if path and '://' not in path and not part.get('backend_args') and not os.path.exists(path):
                raise InputError(f'{loader}: no {path!r} ({name} of {called(part)}, looked in {os.getcwd()}). '
                                 'data/README.md says where each data set belongs; a link to it will do')
        kind = dataset_type(part)
        if hasattr(kind, 'check_files'):  # one that knows itself what it needs
            try:
                DATASETS.build(dict(part, lazy_init=True)).check_files()
            except Exception as error:
                raise InputError(f'{loader}: {error}') from error
        classes = dataset_classes(kind, part.get('metainfo'))
        try:
            misnamed = unknown_names(part, kind, classes)
        except ValueError as error:
            raise InputError(f'{loader}: {error}') from error
        if misnamed:
            raise InputError(f'{loader}: {misnamed}. Name them in the data sets of all loaders, '
                             'metainfo=dict(classes=(...))')
        for where, count in class_counts(student):
            if classes and count != len(classes) and not open_vocabulary:
                raise InputError(f'{loader}: {called(part)} has {len(classes)} classes ({", ".join(classes[:3])}, '
                                 f'...), but the model\'s {where}.num_classes is {count}: make them equal, by '
                                 'num_classes or by metainfo=dict(classes=(...)) in the data sets of all loaders')


def _check_metric(cfg: Config, name: str) -> None:
    for metric in _metrics(cfg.get(name) or ()):
        path = metric.get('ann_file')
        if path and '://' not in path and not metric.get('backend_args') and not os.path.exists(path):
            raise InputError(f'{name}: no {path!r} (ann_file of {called(metric)}, looked in {os.getcwd()}). It belongs '
                             'to the data set: where that moved, this must too')


def _metrics(evaluator: ConfigDict | Sequence) -> Iterator[ConfigDict]:
    """The metrics in an evaluator, which may be one, several, or those of several data sets."""
    for metric in [evaluator] if isinstance(evaluator, dict) else evaluator:
        yield metric
        yield from _metrics(metric.get('metrics') or ())
