"""What a process runs on and with: code, environment, device and memory."""
from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """The repository's, and whether what runs here differs from it."""
    def git(*args: str) -> str:
        return subprocess.run(['git', '-C', str(ROOT), *args], capture_output=True, text=True, check=True).stdout
    try:
        changed = git('status', '--porcelain', '--', 'mmgkd', 'configs', 'tools').strip()
        return git('rev-parse', 'HEAD').strip() + ' with changes' * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return 'not a git repository'


def environment(threads: int) -> dict[str, str]:
    """The environment of a job: this repository's package first, so many threads, output at once."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    counts = dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS'), str(threads))
    return os.environ | counts | dict(PYTHONPATH=path, PYTHONUNBUFFERED='1')


def device() -> str:
    """What trainings run on."""
    import torch
    return torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'


def machine() -> str:
    """A name for this machine as it was started last, by which times of one are not compared with those of another; it
    tells nothing about it."""
    boot = Path('/proc/sys/kernel/random/boot_id')
    return hashlib.sha256((boot.read_text() if boot.is_file() else platform.node()).encode()).hexdigest()[:8]


def peak_memory(pid: int) -> float:
    """MB that a process had resident at most; 0 where the system does not tell, or it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f'/proc/{pid}/status').read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) / 1024
    return 0.
