"""How long distilling takes, part by part, and how much memory: python tools/benchmark.py CONFIG [--vs CONFIG ...].

All parts are measured in one run, one after the other and over again, so that a busy machine troubles all alike; times
are medians, and ratios medians of each turn's. The naive limit is what distilling cannot do without: a training step of
the student, and the teacher's backbone and neck as they are, without gradient. A term is measured forward and backward,
on given maps, and the floor of all that read these is to read them, twice, and to write a gradient. Calls are operators
that compute, about a launch each on a GPU; waits are values that they ask back from it.
"""
from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, DictAction
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools')]

from benchmark_parts import LIMIT, STUDENT, Bench, Run, Settings  # noqa: E402
from benchmark_peer import peer  # noqa: E402
from compare_variants import with_method  # noqa: E402
from machine import peak_memory  # noqa: E402

from mmgkd.config_parts import is_distiller  # noqa: E402

AT_ONCE = dict.fromkeys(('MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_'), str(2 ** 17))
"""Lets the C library give memory back when it is freed: what is resident is then what is used, within 0.1 %."""
COLUMNS = ('', 'ms', 'of limit', 'GFLOP', 'calls', 'waits', 'peak MB', 'of limit')
WAITS = {'_local_scalar_dense', 'nonzero', 'masked_select', 'equal', '_unique2', '_linalg_eigh', '_linalg_svd'}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a distillation')
    parser.add_argument('--vs', nargs='+', default=[], metavar='CONFIG',
                        help='other distillations of that student, or method files, measured in the same run')
    parser.add_argument('--peer', nargs=2, metavar=('FILE', 'NAME'),
                        help='a loss from elsewhere: a function, or a class of callables, of two maps (N, C, H, W)')
    parser.add_argument('--shape', type=int, nargs=2, default=(512, 512), metavar=('HEIGHT', 'WIDTH'),
                        help='of the images of a synthetic batch (default: 512 512)')
    parser.add_argument('--batch', type=int, default=1, help='images in a batch (default: 1)')
    parser.add_argument('--real-data', action='store_true', help="the config's own data instead of synthetic ones")
    parser.add_argument('--repeat', type=int, default=10, help='how often everything is measured (default: 10)')
    parser.add_argument('--only', nargs='+', default=[], metavar='TEXT', help='parts whose names hold one of these')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override settings of every config, such as model.teacher.dtype=bfloat16')
    parser.add_argument('--no-memory', action='store_true', help='leave out the memory: each part needs a process')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write everything here, as JSON')
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for path in (args.config, *args.vs):
        if not os.path.isfile(path):
            parser.error(f'no config file {path!r} (looked in {os.getcwd()})')
    for name, given, least in (('batch', args.batch, 1), ('repeat', args.repeat, 1), ('shape', min(args.shape), 64)):
        if given < least:
            parser.error(f'--{name} must be at least {least}, got {given}')
    if args.out and not args.out.resolve().parent.is_dir():
        parser.error(f'--out: no folder {str(args.out.resolve().parent)!r}')
    return args


# ---- what is measured

def read(args: argparse.Namespace) -> dict[str, Config]:
    """The distillations, by name: a method file becomes the first one's pair with that method."""
    found: dict[str, Config] = {}
    for path in (args.config, *args.vs):
        cfg = Config.fromfile(path)
        if found and 'model' not in cfg and 'distill_losses' in cfg:
            cfg = with_method(next(iter(found.values())), cfg.distill_losses, [])
        elif not is_distiller(cfg):
            raise SystemExit(f'tools/benchmark.py: {path} is no distillation')
        cfg.merge_from_dict(args.cfg_options or {})
        found[unused(Path(path).stem, found)] = cfg
    if args.peer:
        MODELS.register_module(name='PeerLoss', module=peer(*args.peer))
        found['peer'] = with_method(next(iter(found.values())), dict(peer=dict(type='PeerLoss')), [])
    return found


def unused(name: str, taken: Mapping) -> str:
    return name if name not in taken else next(f'{name}_{i}' for i in itertools.count(2) if f'{name}_{i}' not in taken)


def measure(runs: Mapping[str, Run], repeat: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each run, in turns, each time after itself: what ran before leaves other memory and caches."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat):
        for name, run in runs.items():
            run()
            times[name].append(seconds(run, device))
    return times


def seconds(run: Run, device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


class Calls(TorchDispatchMode):
    """Counts operators that compute, and those after which the host waits for a value; copies to it are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.waits = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += not func.is_view
        name = func.overloadpacket.__name__
        self.waits += name in WAITS or name in ('index', 'index_put_') and any(
            index is not None and index.dtype == torch.bool for index in args[1])
        return func(*args, **(kwargs or {}))


def operations(run: Run) -> dict[str, float]:
    """Floating-point operations of matrix products and convolutions, each multiplication and each addition being one;
    operators, and waits."""
    with FlopCounterMode(display=False) as counter:
        run()
    with Calls() as seen:
        run()
    return dict(flop=float(counter.get_total_flops()), calls=seen.calls, waits=seen.waits)


def peak(run: Run, device: torch.device) -> float:
    """MB at most, in two runs: of this process, or of what was allocated on the GPU; not of what building it took."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # where this cannot be forgotten, it counts
            Path('/proc/self/clear_refs').write_text('5')
    run(), run()
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2 ** 20
    return peak_memory(os.getpid())


def peaks(names: Sequence[str], command: Sequence[str]) -> dict[str, float]:
    """The peak of each part, in a process of its own."""
    found = {}
    for name in names:
        with tempfile.NamedTemporaryFile('r', suffix='.json') as file:
            done = subprocess.run([sys.executable, __file__, *command, '--memory-of', name, '--out', file.name],
                                  capture_output=True, text=True, env=os.environ | AT_ONCE)
            if done.returncode:
                raise SystemExit(f'tools/benchmark.py: measuring the memory of {name!r} failed\n{done.stderr[-3000:]}')
            found[name] = json.load(file)
    return found


# ---- what is said of it

def report(result: dict, console: Console) -> None:
    limits, most = result['seconds'].get(LIMIT, ()), result['peak_MB'].get(LIMIT)
    size = 'real images' if result['real_data'] else '{} x {}'.format(*result['shape'])
    title = '{batch} x {size} on {device}, {threads} threads, median of {repeat}'.format(size=size, **result)
    table = Table(title=title, title_justify='left')
    for column in COLUMNS:
        table.add_column(column, justify='right' if column else 'left', no_wrap=bool(column), overflow='fold')
    for name, times in result['seconds'].items():
        memory, counts = result['peak_MB'].get(name), result['operations'][name]
        ratio = statistics.median(x / y for x, y in zip(times, limits, strict=True)) if limits else None
        table.add_row(name, f'{1000 * statistics.median(times):.1f}', f'{ratio:.3f}' if ratio else '',
                      f'{counts["flop"] / 1e9:.1f}', str(counts['calls']), str(counts['waits']),
                      f'{memory:.0f}' if memory else '', f'{memory / most:.3f}' if memory and most else '')
    console.print(table)
    for side, found in result['models'].items():
        console.print(f'{side}: {found["parameters"] / 1e6:.1f} M parameters, {found["flop"] / 1e9:.1f} GFLOP for its '
                      'maps', highlight=False)


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    args, console = parse_args(argv), Console()
    if not console.is_terminal:
        console = Console(width=120)
    logging.disable(logging.INFO)  # how each layer was initialised
    try:
        run(args, argv, console)
    finally:
        logging.disable(logging.NOTSET)


def run(args: argparse.Namespace, argv: Sequence[str], console: Console) -> None:
    device = torch.device(args.device)
    bench = Bench(read(args), Settings(tuple(args.shape), args.batch, device, args.real_data))
    parts = bench.parts()
    if args.memory_of:
        args.out.write_text(json.dumps(peak(parts[args.memory_of](), device)))
        return
    wanted = [name for name in parts if not args.only or any(text in name for text in args.only)]
    if not wanted:
        raise SystemExit(f'tools/benchmark.py: --only {" ".join(args.only)} leaves nothing of {", ".join(parts)}')
    runs = {name: parts[name]() for name in wanted}
    counts = {name: operations(run) for name, run in runs.items()}
    result = dict(
        command=argv, shape=args.shape, batch=args.batch, real_data=args.real_data, device=str(device),
        threads=torch.get_num_threads(), torch=torch.__version__, repeat=args.repeat, models=bench.models(),
        operations=counts, seconds=measure(runs, args.repeat, device), peak_MB={})
    del runs
    if not args.no_memory:
        result['peak_MB'] = peaks([name for name in wanted if name.endswith(('step', STUDENT, LIMIT))], argv)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1))
    report(result, console)


if __name__ == '__main__':
    main()
