"""Compare methods on one pair: train a teacher, the student alone and the student with each method, and tabulate.

    python tools/compare.py configs/digits/gkd.py --methods gkd pkd fgd --seeds 3

Interrupted, it goes on where it stopped when it is run again; what is done is not done twice.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from compare_report import collect, write  # noqa: E402
from demo_jobs import Job, JobFailed, lock, run_jobs, show  # noqa: E402
from demo_progress import Watch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from rich.console import Console  # noqa: E402

from mmgkd.detectors import model_config  # noqa: E402
from mmgkd.preflight import InputError, check_training, is_distiller  # noqa: E402

METHODS = ROOT / 'configs' / '_base_'
ALONE, INHERIT = 'alone', 'inherit'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('pair', help='config of a distillation, such as configs/digits/gkd.py')
    parser.add_argument('--methods', nargs='+', metavar='NAME', default=['all'],
                        help='files of configs/_base_, or configs of your own with distill_losses; default: all for '
                             'detectors of two stages, of one, or classifiers, as the student is')
    parser.add_argument('--seeds', type=int, default=1, help='how often to repeat everything (default: 1)')
    parser.add_argument('--first-seed', type=int, default=0, help='the first random seed (default: 0)')
    parser.add_argument('--epochs', type=int, help='epochs of the students, instead of the config\'s')
    parser.add_argument('--jobs', type=int, default=os.cpu_count(), help='trainings at once (default: the cores)')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare_<folder and name of the pair>')
    args = parser.parse_args(argv)
    for name, least in (('seeds', 1), ('first_seed', 0), ('jobs', 1), ('epochs', 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f'--{name.replace("_", "-")} must be at least {least}, got {getattr(args, name)}')
    if not Path(args.pair).is_file():
        parser.error(f'no config file {args.pair!r} (looked in {os.getcwd()})')
    pair = Path(args.pair).resolve()
    args.work_dir = (args.work_dir or ROOT / 'work_dirs' / f'compare_{pair.parent.name}_{pair.stem}').resolve()
    return args


# ---- what is compared

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


def find_methods(names: Sequence[str], student: dict) -> dict[str, Path]:
    known = method_files(student)
    if list(names) == ['all']:
        return known
    found = {Path(name).stem: known.get(name, Path(name)) for name in names}
    if missing := [name for name, path in found.items() if not path.is_file()]:
        raise SystemExit(f'tools/compare.py: no method {missing}; for this student there are {", ".join(known)}')
    return found


def variants(pair: Config, methods: dict[str, Path]) -> dict[str, Config]:
    """The configs to train, by name: the student alone, what inheritance alone gives, and each method."""
    alone = deepcopy(pair)
    alone.model = model_config(alone.model.student)
    alone.custom_hooks = own_hooks(pair)
    found = {ALONE: alone}
    if pair.model.get('inherit'):
        found[INHERIT] = with_method(pair, pair.model.distill_losses, [
            dict(type='DistillWeightHook', decay_from=0, stop=0)])
    for name, path in methods.items():
        method = Config.fromfile(str(path))
        if 'distill_losses' not in method:
            raise SystemExit(f'tools/compare.py: {path} defines no distill_losses: it is no method')
        found[name] = with_method(pair, method.distill_losses, method.get('distill_hooks', []),
                                  method.get('custom_imports', {}).get('imports', []))
    return found


def own_hooks(pair: Config) -> list:
    """The hooks of a pair that are not a method's."""
    return [hook for hook in pair.get('custom_hooks') or []
            if str(hook['type']).rpartition('.')[2] not in ('DistillWeightHook', 'PrepareLossesHook')]


def with_method(pair: Config, losses: dict, hooks: list, imports: Sequence[str] = ()) -> Config:
    cfg = deepcopy(pair)
    cfg.model.distill_losses = losses
    cfg.custom_hooks = [*own_hooks(pair), *hooks]
    cfg.custom_imports = dict(imports=list(dict.fromkeys(['mmgkd', *imports])), allow_failed_imports=False)
    return cfg


# ---- the jobs

def digest(*texts: str) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


@functools.lru_cache(None)
def sources() -> str:
    """A digest of the package."""
    return digest(*(path.read_text() for path in sorted((ROOT / 'mmgkd').rglob('*.py'))))


def training(name: str, cfg: Config, seed: int, folder: Path, teacher: Job | None = None, code: str = '') -> Job:
    """The job that trains one model; its config is written where its results will be."""
    cfg = deepcopy(cfg)
    cfg.randomness = dict(seed=seed)
    if teacher and is_distiller(cfg):
        cfg.model.teacher.checkpoint = str(teacher.product)
    cfg.work_dir = None
    if 'max_epochs' not in cfg.train_cfg:
        raise SystemExit('tools/compare.py: trainings are counted in epochs, and train_cfg has no max_epochs')
    if 'mmgkd.' in Config(dict(model=cfg.model)).pretty_text:  # made of this package even without a method
        code = code or sources()
    key = digest(cfg.pretty_text, code, teacher.digest if teacher else '')
    folder = folder / f'seed{seed}' / f'{name}-{key[:8]}'
    folder.mkdir(parents=True, exist_ok=True)
    cfg.work_dir = str(folder)
    cfg.dump(str(folder / 'config.py'))
    epochs = cfg.train_cfg.max_epochs
    loader = cfg.train_dataloader
    images = images_in(Config(dict(dataset=loader.dataset)).pretty_text, cfg.get('default_scope', 'mmdet'))
    steps = epochs * -(-images // loader.batch_size)
    command = [sys.executable, 'tools/train.py', str(folder / 'config.py')]
    return Job(f'seed {seed} {name}', name, folder, command, folder / f'epoch_{epochs}.pth', key,
               needs=[teacher] if teacher else [], steps=steps, guess=.4 * steps, resumes=True)


def own_terms(jobs: dict[tuple[str, int], Job]) -> dict[tuple[str, int], Job]:
    """By name and seed, the jobs that measure what each method did to its own terms."""
    found = {}
    for (name, seed), job in jobs.items():
        without = jobs.get((INHERIT, seed), jobs[ALONE, seed])
        if name in ('teacher', ALONE, INHERIT):
            continue
        folder = job.folder / 'own_terms'
        command = [sys.executable, 'tools/own_terms.py', str(job.folder / 'config.py'), str(job.product),
                   '--without', str(without.product), '--out', str(folder / 'terms.json')]
        found[name, seed] = Job(f'seed {seed} {name}, terms', 'terms', folder, command, folder / 'terms.json',
                                digest(job.digest, without.digest), needs=[job, without], guess=15.)
    return found


def check_data(pair: Config) -> None:
    """Refuse a pair whose data are not there, before anything is started."""
    alone = deepcopy(pair)
    alone.model = model_config(alone.model.student)
    try:
        check_training(alone)
    except InputError as error:
        raise SystemExit(f'tools/compare.py: {error}') from None


@functools.lru_cache(None)
def images_in(config: str, scope: str) -> int:
    """How many images a data set has, given as the text of a config: the trainings mostly share one."""
    from mmdet.registry import DATASETS
    from mmengine.registry import init_default_scope
    init_default_scope(scope)
    with contextlib.redirect_stdout(io.StringIO()):
        return len(DATASETS.build(Config.fromstring(config, '.py').dataset))


def plan(args: argparse.Namespace) -> dict[tuple[str, int], Job]:
    """Every training, by name and seed, in order of importance."""
    pair = Config.fromfile(args.pair)
    if not is_distiller(pair):
        raise SystemExit(f'tools/compare.py: {args.pair} is no distillation, its model is a {pair.model.type}')
    check_data(pair)
    configs = variants(pair, find_methods(args.methods, model_config(pair.model.student)))
    teacher = pair.model.teacher.config
    trained = isinstance(teacher, str) and os.path.isfile(teacher)  # else it is one that others have trained
    code, jobs, seeds = sources(), {}, range(args.first_seed, args.first_seed + args.seeds)
    for seed in seeds if trained else ():
        jobs['teacher', seed] = training('teacher', Config.fromfile(teacher), seed, args.work_dir)
    for seed in seeds:
        for name, cfg in configs.items():
            if args.epochs:
                cfg.train_cfg.max_epochs = args.epochs
            jobs[name, seed] = training(name, cfg, seed, args.work_dir, jobs.get(('teacher', seed)),
                                        '' if name == ALONE else code)
    return jobs


def main(argv: Sequence[str] | None = None) -> None:
    args, console = parse_args(argv), Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        with lock(args.work_dir) as held:
            jobs = plan(args)
            terms = own_terms(jobs)
            console.print(f'{len(jobs)} trainings, {args.jobs} at once, kept in {show(args.work_dir)}', highlight=False)
            with Watch(console, args.jobs) as watch:
                failures = run_jobs([*jobs.values(), *terms.values()], args.jobs, 1, watch,
                                    inherited=[held.fileno()], go_on=True)
            write(collect(jobs, terms), args.work_dir, console)
            if failures:
                raise JobFailed('\n'.join(failures))
    except BlockingIOError:
        raise SystemExit(f'tools/compare.py: another comparison is running in {show(args.work_dir)}') from None
    except JobFailed as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        console.print('Stopped. The same command goes on from here.')
        raise SystemExit(130) from None


if __name__ == '__main__':
    main()
