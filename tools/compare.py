"""Compare methods on one pair: train a teacher, the student alone and the student with each method, and report.

    python tools/compare.py configs/digits/gkd.py --methods gkd pkd fgd --seeds 3
    python tools/compare.py configs/bccd/gkd.py --methods gkd gkd:edge_weight=0 mine.py
    python tools/compare.py configs/bccd/gkd.py --methods gkd pkd --log docs/logs/bccd.json.gz

Interrupted, it goes on where it stopped when it is run again; what is done is not done twice.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from compare_html import write_html  # noqa: E402
from compare_log import read_log, write_log  # noqa: E402
from compare_plan import Plan, plan  # noqa: E402
from compare_report import collect, doubts, write  # noqa: E402
from jobs import lock, run_jobs, show  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.device import is_cuda_available  # noqa: E402
from progress import Watch  # noqa: E402
from rich.console import Console  # noqa: E402


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('pair', help='config of a distillation, such as configs/digits/gkd.py')
    parser.add_argument('--methods', nargs='+', metavar='NAME[:KEY=VALUE]', default=['all'],
                        help='files of configs/_base_, or configs of your own, with distill_losses or whole; each with '
                             'changes after colons (gkd:edge_weight=0:inherit=None; alone:max_epochs=24 is one too, '
                             'and pkd:weights*=4 multiplies all its weights); default: all for detectors of two '
                             'stages, of one, or classifiers, as the student is')
    parser.add_argument('--seeds', type=int, default=1,
                        help='how often to repeat everything (default: 1), from --first-seed on')
    parser.add_argument('--first-seed', type=int, default=0, help='the first random seed (default: 0)')
    parser.add_argument('--epochs', type=int, help='of the students, instead of the config\'s; not of whole configs')
    parser.add_argument('--given-teacher', action='store_true',
                        help='teach with the checkpoint that the pair names, the same with each seed, instead of '
                             'training a teacher with each (with a teacher by name, mmdet::..., this is always so)')
    parser.add_argument('--jobs', type=int, default=1 if is_cuda_available() else os.cpu_count(),
                        help='trainings at once (default: the cores, or one on a GPU, which all of them share)')
    parser.add_argument('--scores-only', action='store_true',
                        help='leave out own terms and detections, which take a minute a training: for sweeps')
    parser.add_argument('--log', type=Path, metavar='FILE.json.gz',
                        help='what is in this file is not trained again, whoever trained it; what is trained is added')
    parser.add_argument('--work-dir', type=Path, help='default: work_dirs/compare_<folder and name of the pair>')
    args = parser.parse_args(argv)
    for name, least in (('seeds', 1), ('first_seed', 0), ('jobs', 1), ('epochs', 1)):
        if getattr(args, name) is not None and getattr(args, name) < least:
            parser.error(f'--{name.replace("_", "-")} must be at least {least}, got {getattr(args, name)}')
    if not Path(args.pair).is_file():
        parser.error(f'no config file {args.pair!r} (looked in {os.getcwd()})')
    pair = Path(args.pair).resolve()
    args.work_dir = (args.work_dir or Path('work_dirs') / f'compare_{pair.parent.name}_{pair.stem}').resolve()
    return args


def record(jobs: Plan, log: Path | None) -> list[dict]:
    """What is measured by now, which is added to the log."""
    results = collect(jobs)
    if log:
        write_log(log, [entry for entry in results if entry not in jobs.known.values()])
    return results


def keep(jobs: Plan, log: Path | None) -> None:
    """Add to the log what is measured by now, if it can be written; at the end it is an error if not."""
    with contextlib.suppress(SystemExit):
        record(jobs, log)


def main(argv: Sequence[str] | None = None) -> None:
    args, console = parse_args(argv), Console()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        with lock(args.work_dir) as held:
            jobs = plan(Config.fromfile(args.pair), args.methods,
                        range(args.first_seed, args.first_seed + args.seeds), args.work_dir, args.epochs,
                        read_log(args.log) if args.log else [], args.given_teacher)
            if args.scores_only:
                jobs = jobs._replace(**{kind: {key: job for key, job in getattr(jobs, kind).items() if job.is_done()}
                                        for kind in ('terms', 'tests')})
            if args.log:
                write_log(args.log, [])  # now, and not after hours, it is found out whether that can be
            console.print(f'{len(jobs.trainings)} trainings, {len(jobs.known)} of them in the log, {args.jobs} at '
                          f'once, kept in {show(args.work_dir)}', highlight=False)
            try:
                with Watch(console, args.jobs) as watch:
                    failures = run_jobs(
                        jobs.all(), args.jobs, 1, watch, inherited=[held.fileno()], go_on=True,
                        after=lambda: keep(jobs, args.log))
            finally:
                results = record(jobs, args.log)
            for said in [*failures, *doubts(jobs)]:
                console.print(said, markup=False, highlight=False, soft_wrap=True)
            write(results, args.work_dir, console)
            write_html(results, jobs, args.work_dir, console)
            if failures:
                raise SystemExit(1)
    except BlockingIOError:
        raise SystemExit(f'tools/compare.py: another comparison is running in {show(args.work_dir)}') from None
    except KeyboardInterrupt:
        console.print('Stopped. The same command goes on from here.')
        raise SystemExit(130) from None


if __name__ == '__main__':
    main()
