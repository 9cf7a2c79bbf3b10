"""The demo: train a teacher, a student alone and the same student with GKD, and compare them.

Interrupted, it goes on where it stopped when it is run again; what is done is not done twice.
"""
from __future__ import annotations

import argparse
import functools
import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
KINDS = ('teacher', 'gkd', 'student')  # in the order of importance: the first keeps the others waiting
SECONDS = dict(teacher=.5, gkd=.6, student=.35, test=15.)  # of an iteration or a test: a first guess
MAX_THREADS = 4  # of one job; models this small gain nothing from more
SPACE = 120e6  # bytes that the checkpoints of one seed take, and some more
QUICK_DATA = dict(out='data/digits_quick', train=24, val=16)
QUICK = {'train_cfg.max_epochs': 1, 'train_cfg.val_interval': 1, 'param_scheduler.0.end': 2,
         'default_hooks.logger.interval': 1}

try:
    import matplotlib  # noqa: F401  (fail now rather than after the training)
    from jobs import Job, JobFailed, digest, lock, run_jobs, show
    from make_digits import STAMP, make_digits
    from mmengine.config import Config
    from progress import Watch
    from rich.console import Console
except ModuleNotFoundError as error:
    raise SystemExit(f'tools/demo.py: {error}. "make setup" installs all that is needed, or:\n'
                     f'{sys.executable} -m pip install scikit-learn matplotlib rich') from None

Jobs = dict[tuple[str, int], Job]  # by kind and seed


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--seeds', type=int, default=1, help='how often to repeat everything (default: 1)')
    parser.add_argument('--first-seed', type=int, default=0, help='the first random seed (default: 0)')
    parser.add_argument('--quick', action='store_true', help='a few images, one epoch: does everything work?')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/demo, or work_dirs/demo_quick')
    parser.add_argument('--jobs', type=int, default=min(cores(), 8),
                        help='how many trainings to run at once (default: %(default)s)')
    args = parser.parse_args(argv)
    for name, least in (('seeds', 1), ('first_seed', 0), ('jobs', 1)):
        if getattr(args, name) < least:
            parser.error(f'--{name.replace("_", "-")} must be at least {least}, got {getattr(args, name)}')
    default = ROOT / 'work_dirs' / ('demo_quick' if args.quick else 'demo')
    args.work_dir = (args.work_dir or default).resolve()
    if ',' in str(args.work_dir):
        parser.error(f'--work-dir must not contain a comma, which separates values, got {args.work_dir}')
    args.jobs = min(args.jobs, 2 * args.seeds)  # of each seed the student and the distilled one
    args.threads = max(1, min(MAX_THREADS, cores() // args.jobs))
    return args


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def settings(data: str, seed: int, quick: bool) -> dict:
    """What the demo sets in a config."""
    loaders = {f'{split}_dataloader.dataset.data_root': f'{data}/' for split in ('train', 'val', 'test')}
    evaluators = {f'{split}_evaluator.ann_file': f'{data}/annotations/val.json' for split in ('val', 'test')}
    return {'randomness.seed': seed, **loaders, **evaluators, **(QUICK if quick else {})}


def override(options: dict) -> list[str]:
    """Settings as the command line takes them."""
    return ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]


def config_file(kind: str) -> str:
    return f'configs/digits/{kind}.py'


@functools.lru_cache(None)
def sources() -> str:
    """A digest of the package."""
    files = sorted((ROOT / 'mmgkd').rglob('*.py'))
    return digest(*(f'{path.relative_to(ROOT)}\n{path.read_text()}' for path in files))


def versions() -> str:
    import mmcv
    import mmdet
    import mmengine
    import torch
    return ' '.join(f'{module.__name__}={module.__version__}' for module in (torch, mmengine, mmcv, mmdet))


def read_config(kind: str, options: dict) -> Config:
    cfg = Config.fromfile(str(ROOT / config_file(kind)))
    cfg.merge_from_dict(options)
    return cfg


def training(kind: str, seed: int, args: argparse.Namespace, data: str, teacher: Job | None) -> Job:
    """The job that trains one detector.

    The plain student waits for the teacher too: it then runs beside the distilled one, under the same load,
    and all is done just as soon.
    """
    options = settings(data, seed, args.quick)
    cfg = read_config(kind, options)
    parts = [cfg.pretty_text.replace(str(ROOT), ''), (ROOT / data / STAMP).read_text(), versions()]
    if kind == 'gkd':  # the other two run nothing of this package
        parts += [sources(), teacher.digest]
        options['model.teacher.checkpoint'] = str(teacher.product)
    code = digest(*parts)
    folder = args.work_dir / f'seed{seed}' / f'{kind}-{code[:8]}'
    images = len(json.loads((ROOT / data / 'annotations/train.json').read_text())['images'])
    epochs = cfg.train_cfg.max_epochs
    steps = epochs * math.ceil(images / cfg.train_dataloader.batch_size)
    command = [sys.executable, 'tools/train.py', config_file(kind), '--work-dir', str(folder),
               *override(options)]
    return Job(f'seed {seed} {kind}', kind, folder, command, folder / f'epoch_{epochs}.pth', code,
               needs=[teacher] if teacher else [], steps=steps, guess=SECONDS[kind] * steps, resumes=True)


def testing(trained: Job, kind: str, seed: int, args: argparse.Namespace, data: str) -> Job:
    """The job that tests what another has trained."""
    folder = trained.folder / 'test'
    predictions = folder / 'predictions.pkl'
    command = [sys.executable, 'tools/test.py', config_file(kind), str(trained.product),
               '--work-dir', str(folder), '--out', str(predictions),
               *override(settings(data, seed, args.quick))]
    return Job(f'test of seed {seed} {kind}', 'test', folder, command, predictions, digest(trained.digest),
               needs=[trained], guess=SECONDS['test'])


def plan(args: argparse.Namespace, data: str) -> tuple[Jobs, Jobs]:
    """All trainings and all tests, in order of importance."""
    trainings, tests = {}, {}
    for kind in KINDS:
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            trained = training(kind, seed, args, data, trainings.get(('teacher', seed)))
            trainings[kind, seed], tests[kind, seed] = trained, testing(trained, kind, seed, args, data)
    return trainings, tests


def prepare(args: argparse.Namespace, console: Console) -> str:
    """Make the data set if it is not there, see that there is room, return the folder, from the root."""
    parameters = QUICK_DATA if args.quick else dict(out='data/digits')
    data = parameters['out']
    try:
        if make_digits(**{**parameters, 'out': ROOT / data}):
            console.print(f'made the data set {show(ROOT / data)}')
    except (FileExistsError, ValueError) as error:  # what is wrong, and what to do
        raise SystemExit(f'tools/demo.py: data set {show(ROOT / data)}: {error}') from None
    free, needed = shutil.disk_usage(args.work_dir).free, SPACE * args.seeds
    if free < needed:
        raise SystemExit(f'tools/demo.py: the checkpoints need {needed / 1e6:.0f} MB, {show(args.work_dir)} '
                         f'has {free / 1e6:.0f} MB left. Make room, or choose another --work-dir')
    return data


def run(args: argparse.Namespace, console: Console) -> None:
    from demo_report import collect, write
    with lock(args.work_dir) as held:
        data = prepare(args, console)
        trainings, tests = plan(args, data)
        jobs = [*trainings.values(), *tests.values()]
        console.print(f'{len(trainings)} trainings of {jobs[0].steps} iterations and {len(tests)} tests, '
                      f'up to {args.jobs} at once on {cores()} cores, all kept in {show(args.work_dir)}',
                      highlight=False, soft_wrap=True)
        with Watch(console, args.jobs) as watch:
            run_jobs(jobs, args.jobs, args.threads, watch, inherited=[held.fileno()])
        results = collect(trainings, tests, ROOT / data, quick=args.quick, cores=cores())
        write(results, args.work_dir, console)


def main(argv: Sequence[str] | None = None) -> None:
    args, console = parse_args(argv), Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, signal.default_int_handler)  # stop as on Ctrl-C
    try:
        run(args, console)
    except BlockingIOError:
        raise SystemExit(f'tools/demo.py: another demo is running in {show(args.work_dir)}; wait for it, or '
                         'choose another --work-dir') from None
    except JobFailed as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        console.print('Stopped. The same command goes on from here.')
        raise SystemExit(130) from None


if __name__ == '__main__':
    main()
