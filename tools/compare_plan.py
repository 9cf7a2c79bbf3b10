"""The jobs of a comparison: what trains, tests and measures each of its variants."""
from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

from compare_identity import as_text, identity
from compare_log import check_names
from compare_teachers import given_teacher, own_teachers, row_of, say_unused
from compare_variants import ALONE, INHERIT, TEACHER, alone, variants
from jobs import Job, digest, show
from machine import ROOT
from mmengine.config import Config

from mmgkd.config_parts import called, is_distiller
from mmgkd.preflight import InputError, check_distiller, check_training, is_classifier

EVALUATORS = ('CocoMetric', 'VOCMetric', 'Accuracy')  # what gives compare_report.METRICS
Jobs = dict[tuple[str, int], Job]  # by name and seed


class Plan(NamedTuple):
    """The jobs of a comparison, all by name and seed.

    Attributes:
        trainings (Jobs): In order of importance.
        terms (Jobs): What each method did to its own terms.
        tests (Jobs): What the first seed's detectors find on the test images.
        identities (dict): Of trainings, see :mod:`compare_identity`; those of one identity are one job.
        teachers (dict): The row of each training's teacher.
        known (dict): What a log has of trainings.
        logged (dict): What the log calls them.
    """
    trainings: Jobs
    terms: Jobs
    tests: Jobs
    identities: dict[tuple[str, int], str]
    teachers: dict[tuple[str, int], str]
    known: dict[tuple[str, int], dict]
    logged: dict[tuple[str, int], str]

    def all(self) -> list[Job]:
        """What is to be run, or was: trainings that the log knows are only run if others need what they leave."""
        trained = [job for key, job in self.trainings.items() if key not in self.known]
        there = {*trained, *(teacher for job in trained for teacher in job.needs),
                 *(job for job in self.trainings.values() if job.is_done())}
        measuring = [job for jobs in (self.terms, self.tests) for job in jobs.values()
                     if job.needs and there.issuperset(job.needs)]
        return list(dict.fromkeys([job for job in self.trainings.values() if job in there] + measuring))


def plan(pair: Config, wanted: Sequence[str], seeds: Sequence[int], folder: Path, epochs: int | None = None,
         log: Sequence[dict] = (), given: bool = False) -> Plan:
    """Every job of a comparison; its trainings and tests keep their results below ``folder``.

    Args:
        pair (Config): A distillation.
        wanted (Sequence[str]): See :func:`compare_variants.variants`.
        seeds (Sequence[int]): Of each training.
        folder (Path): Of the comparison.
        epochs (int, optional): Of the students, instead of the config's.
        log (Sequence[dict]): Entries of :mod:`compare_log`: what it has is not trained again.
        given (bool): The teachers are those of the checkpoints that configs give, and none is trained.

    Raises:
        SystemExit: Something is not there or does not fit; the text says what.
    """
    if not is_distiller(pair):
        raise SystemExit(f'tools/compare.py: {pair.filename} is no distillation, its model is '
                         f'{called(pair.get("model")) or "not there"}: name a pair, such as configs/digits/gkd.py')
    configs = variants(pair, wanted, epochs)
    teachers, whose = ({}, {}) if given else own_teachers(pair, configs)
    for name, cfg in (teachers | configs).items():
        check(name, cfg, teacher_comes=name in whose)
    scored = {TEACHER: test} if TEACHER not in teachers and (test := given_teacher(pair)) else {}
    trainings: Jobs = {}
    identities, jobs = {}, {}
    for some in (scored, teachers, configs):
        for seed in dict.fromkeys([*seeds, *(entry['seed'] for entry in log)]):
            for name, cfg in some.items():
                cfg = cfg if some is scored else seeded(cfg, seed)
                teacher = whose.get(name) if some is configs else None, seed
                key = identities[name, seed] = identity(cfg, identities.get(teacher, ''))
                if seed not in seeds:  # that the log is of the same pair is all there is to know
                    continue
                if key not in jobs:
                    jobs[key] = (scoring(pair, cfg, folder, key) if some is scored else
                                 training(name, cfg, seed, folder, key, trainings.get(teacher)))
                trainings[name, seed] = jobs[key]
    check_names(log, identities)
    if '' in whose:
        say_unused(pair)
    identities = {key: identities[key] for key in trainings}
    rows = {key: row_of(key[0], configs[key[0]], pair, whose) if key[0] in configs else TEACHER for key in trainings}
    logged = {entry['identity']: entry for entry in log}
    known = {key: logged[found] | dict(name=key[0], seed=key[1], teacher=rows[key])
             for key, found in identities.items() if found in logged}
    names = {key: logged[identities[key]]['name'] for key in known}
    return Plan(trainings, own_terms(trainings, configs), tests(trainings, scored | configs, seeds[0]), identities,
                rows, known, names)


def seeded(cfg: Config, seed: int) -> Config:
    """A copy with this random seed."""
    cfg = deepcopy(cfg)
    cfg.randomness = cfg.get('randomness', {}) | dict(seed=seed)
    return cfg


def check(name: str, cfg: Config, teacher_comes: bool) -> None:
    """Refuse a training whose data, teacher or length is missing, before anything is started."""
    if 'max_epochs' not in cfg.get('train_cfg', {}):
        raise SystemExit(f'tools/compare.py: {name}: trainings are counted in epochs, and there is no '
                         'train_cfg.max_epochs')
    given = cfg.get('val_evaluator') or ()
    metrics = [called(metric) for metric in ([given] if isinstance(given, dict) else given)]
    if not any(metric.rpartition('.')[2] in EVALUATORS for metric in metrics):
        raise SystemExit(f'tools/compare.py: {name}: val_evaluator must have one of {", ".join(EVALUATORS)}, whose '
                         f'scores are compared, got {", ".join(metrics) or "none"}')
    try:
        check_training(alone(cfg) if teacher_comes else cfg)
        if teacher_comes:
            check_distiller(cfg)
    except InputError as error:
        raise SystemExit(f'tools/compare.py: {name}: {error}') from None


def code_of(cfg: Config) -> str:
    """A digest of the package, if a model is of it; of others' models, nothing."""
    return sources() if is_distiller(cfg) or 'mmgkd.' in as_text(cfg.model.to_dict()) else ''


@functools.lru_cache(None)
def sources() -> str:
    """A digest of the package."""
    return digest(*(path.read_text() for path in sorted((ROOT / 'mmgkd').rglob('*.py'))))


def training(name: str, cfg: Config, seed: int, folder: Path, known_as: str, teacher: Job | None = None) -> Job:
    """The job that trains one model; its config is written where its results will be."""
    cfg = deepcopy(cfg)
    if teacher:
        cfg.model.teacher.checkpoint = str(teacher.product)
    key = digest(known_as, code_of(cfg), teacher.digest if teacher else '')
    folder = folder / f'seed{seed}' / f'{re.sub("[^0-9A-Za-z]", "-", name)[:40]}-{key[:8]}'
    cfg.work_dir = str(folder)
    write(cfg, folder)  # anew, for a folder that was moved
    epochs = cfg.train_cfg.max_epochs
    images = images_in(cfg.train_dataloader.dataset, cfg.get('default_scope', 'mmdet'))
    steps = epochs * -(-images // cfg.train_dataloader.batch_size)
    command = [sys.executable, tool('train.py'), str(folder / 'config.py')]
    return Job(f'seed {seed} {name}', name, folder, command, folder / f'epoch_{epochs}.pth', key,
               needs=[teacher] if teacher else [], steps=steps, guess=.4 * steps, resumes=True, place=Path.cwd())


def write(cfg: Config, folder: Path) -> None:
    """Write a config for its job, without the layout, which takes a second or two: the runner does that in training."""
    folder.mkdir(parents=True, exist_ok=True)
    Config(cfg.to_dict(), format_python_code=False).dump(str(folder / 'config.py'))


def scoring(pair: Config, cfg: Config, folder: Path, known_as: str) -> Job:
    """The job that tests the pair's teacher, from its checkpoint, by this config; with all seeds the same."""
    key = digest(known_as, code_of(cfg))
    folder = folder / f'{TEACHER}-{key[:8]}'
    write(pair, folder)
    out = folder / 'test'
    command = [sys.executable, tool('score_teacher.py'), str(folder / 'config.py'), '--out', str(out)]
    return Job(f'{TEACHER}, test', 'test', out, command, out / 'predictions.pkl', digest(key, 'test'),
               guess=15., place=Path.cwd())


def tests(trainings: Jobs, configs: dict[str, Config], seed: int) -> Jobs:
    """The jobs that write down what the detectors of one seed find, if there are any and test data."""
    if is_classifier(configs[ALONE]) or 'test_dataloader' not in configs[ALONE]:
        return {}
    found = {}
    for (name, its_seed), job in trainings.items():
        if its_seed != seed or name in configs and not same(configs[name], configs[ALONE], 'test_dataloader'):
            continue
        if not job.trains:
            found[name, seed] = job
            continue
        folder = job.folder / 'test'
        command = [sys.executable, tool('test.py'), str(job.folder / 'config.py'), str(job.product),
                   '--work-dir', str(folder), '--out', str(folder / 'predictions.pkl')]
        found[name, seed] = Job(f'{job.name}, test', 'test', folder, command, folder / 'predictions.pkl',
                                digest(job.digest, 'test'), needs=[job], guess=15., place=job.place)
    return one_each(found)


def own_terms(trainings: Jobs, configs: dict[str, Config]) -> Jobs:
    """The jobs that measure what each method did to its own terms, if its student is the one trained without it."""
    found = {}
    for (name, seed), job in trainings.items():
        cfg = configs.get(name)
        if not cfg or not is_distiller(cfg) or name.partition(':')[0] == INHERIT:
            continue
        random = cfg.model.teacher.get('checkpoint') is None  # such a teacher is gone with its training
        if random or not same(alone(cfg), configs[ALONE], 'model'):
            continue
        inherits = INHERIT in configs and cfg.model.get('inherit') == configs[INHERIT].model.inherit
        without = trainings[INHERIT if inherits else ALONE, seed]
        folder = job.folder / 'own_terms'
        command = [sys.executable, tool('own_terms.py'), str(job.folder / 'config.py'), str(job.product),
                   '--without', str(without.product), '--out', str(folder / 'terms.json')]
        found[name, seed] = Job(f'seed {seed} {name}, terms', 'terms', folder, command, folder / 'terms.json',
                                digest(job.digest, without.digest), needs=[job, without], guess=15.,
                                place=job.place)
    return one_each(found)


def tool(name: str) -> str:
    """The path of one of the tools, as short as can be."""
    return show(ROOT / 'tools' / name)


def one_each(jobs: Jobs) -> Jobs:
    """With one job for those that would do the same in the same place."""
    first: dict[Path, Job] = {}
    return {key: first.setdefault(job.folder, job) for key, job in jobs.items()}


def same(one: Config, other: Config, part: str) -> bool:
    """Whether two configs agree in a part, or both have none."""
    return as_text(one.to_dict().get(part)) == as_text(other.to_dict().get(part))


_COUNTED: dict[str, int] = {}  # images, by data set


def images_in(dataset: dict, scope: str) -> int:
    """How many images a data set has; trainings mostly share one, which is built once."""
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope
    key = as_text([dataset, scope, os.getcwd()])
    if key not in _COUNTED:
        init_default_scope(scope)
        with contextlib.redirect_stdout(io.StringIO()):
            _COUNTED[key] = len(DATASETS.build(dataset))
    return _COUNTED[key]
