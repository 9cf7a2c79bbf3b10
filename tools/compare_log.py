"""A comparison's log: what its trainings measured, in one small file that can be kept and shared.

A training is known by its config, wherever the files lie, and not by the package's code: each entry names the commit
that measured it.
"""
from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from demo_jobs import ROOT, digest
from mmengine.config import Config

LINES = 30  # of a training's losses: enough for a curve
LEFT_OUT = ('data_time', 'time', 'memory', 'iter', 'base_lr')
OF_A_MACHINE = ('folder',)


def identity(cfg: Config, teacher: str = '') -> str:
    """A digest of a training, in place of whose teacher's checkpoint stands that of the teacher's training."""
    values = cfg.to_dict() | dict(work_dir=None)
    if teacher:
        values['model']['teacher']['checkpoint'] = teacher
    return digest(as_text(values).replace(f'{ROOT}/', ''))


def as_text(values: dict) -> str:
    """The values of a config, the same for the same ones; a hundred times as fast as its ``pretty_text``."""
    return json.dumps(values, sort_keys=True, default=str)


def read_log(path: Path) -> dict[str, dict]:
    """Entries by identity; none, if there is no such file yet.

    Raises:
        SystemExit: The file is no such log.
    """
    if not path.exists():
        return {}
    try:
        entries = json.loads(gzip.decompress(path.read_bytes()))
        found = {entry['identity']: entry for entry in entries}
    except (OSError, EOFError, ValueError, TypeError, KeyError):
        raise SystemExit(f'tools/compare.py: {path} is no log of a comparison (JSON, compressed by gzip): give another '
                         'name, or move it away') from None
    for entry in found.values():
        entry['curve'] = {int(step): value for step, value in entry['curve'].items()}
        entry['seconds'] = math.nan if entry['seconds'] is None else entry['seconds']
    return found


def write_log(path: Path, results: Iterable[dict]) -> None:
    """Add to a log, whole or not at all; what it has of other trainings stays."""
    entries = read_log(path) | {row['identity']: row for row in results}
    kept = [{key: value for key, value in entry.items() if key not in OF_A_MACHINE} for entry in entries.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + '.new')
    text = '[\n' + ',\n'.join(json.dumps(finite_only(entry), sort_keys=True) for entry in kept) + '\n]\n'
    draft.write_bytes(gzip.compress(text.encode(), mtime=0))  # equal logs are equal files
    draft.replace(path)


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
