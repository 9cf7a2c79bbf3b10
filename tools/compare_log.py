"""A comparison's log: what its trainings measured, in one small file that can be kept and shared."""
from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

LINES = 30  # of a training's losses: enough for a curve
LEFT_OUT = ('data_time', 'time', 'memory', 'iter', 'base_lr')
OF_A_MACHINE = ('folder',)
NEEDED = ('name', 'seed', 'identity', 'digest', 'commit', 'metric', 'score', 'teacher', 'taught_by', 'finite', 'peak',
          'scalars')


def read_log(path: Path) -> list[dict]:
    """Its entries, one of each name and seed; none, if there is no such file yet.

    Raises:
        SystemExit: The file is no such log.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(gzip.decompress(path.read_bytes()))
        for entry in found:
            _ = [entry[key] for key in NEEDED]
            entry['curve'] = {int(step): value for step, value in entry['curve'].items()}
            entry['seconds'] = _number(entry['seconds'])
            entry['terms'] = {term: tuple(map(_number, values)) for term, values in entry['terms'].items()}
    except PermissionError as error:
        raise SystemExit(f'{path} cannot be read: {error.strerror}') from None
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError):
        raise SystemExit(f'{path} is no log of a comparison (JSON, compressed by gzip), or is damaged: give another '
                         'name, or move it away') from None
    return found


def _key(entry: dict) -> tuple[str, int]:
    return entry['name'], entry['seed']


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def write_log(path: Path, results: Iterable[dict]) -> None:
    """Add to a log, whole or not at all; what it has of other trainings stays, also of comparisons beside this one.

    Raises:
        SystemExit: It is no such log, or cannot be written.
    """
    path = path.resolve()  # what a link points to is written, not the link
    draft = path.with_name(path.name + '.new')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(path.parent):
            there, results = read_log(path), list(results)
            check_names(there, {_key(entry): entry['identity'] for entry in results})
            entries = {_key(entry): entry for entry in [*there, *results]}
            kept = [{key: value for key, value in entry.items() if key not in OF_A_MACHINE}
                    for entry in entries.values()]
            text = '[\n' + ',\n'.join(json.dumps(finite_only(entry)) for entry in kept) + '\n]\n'
            draft.write_bytes(gzip.compress(text.encode(), mtime=0))  # equal logs are equal files
            draft.replace(path)
    except OSError as error:
        raise SystemExit(f'--log {path} cannot be written: {error}') from None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is here with the folder; nothing is left in it."""
    import fcntl
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def check_names(log: Sequence[dict], identities: Mapping[tuple[str, int], str]) -> None:
    """Refuse a log in which a row's name stands for another training.

    Raises:
        SystemExit: There is one.
    """
    for entry in log:
        name, seed = _key(entry)
        if identities.get((name, seed), entry['identity']) != entry['identity']:
            raise SystemExit(f'tools/compare.py: the log has a row {name!r} of seed {seed} that was trained with '
                             f'another config, teacher, other data or another length (commit {entry["commit"]}), and '
                             'the two would be mixed: give another --log, or move this one away')


def thin(lines: Sequence[dict]) -> list[dict]:
    """What MMEngine logged, shortened: every validation, and losses at some iterations, to four digits."""
    trained = [line for line in lines if 'loss' in line]
    kept = trained[::-max(1, math.ceil(len(trained) / LINES))][::-1]  # the last among them
    return [{key: float(f'{value:.4g}') if isinstance(value, float) else value
             for key, value in line.items() if key not in LEFT_OUT}
            for line in [*kept, *(line for line in lines if 'loss' not in line)]]


def finite_only(value):
    """With ``None`` for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: finite_only(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_only(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
