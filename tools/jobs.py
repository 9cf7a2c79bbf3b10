"""Runs trainings and tests: several at once, in order of need, and on from where they stopped."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from machine import ROOT, commit, environment, machine, peak_memory
from training_files import latest_checkpoint, read_scalars, scalar_files

STAMP = 'done.json'
LOG = 'output.log'


class JobFailed(Exception):
    """A job ended in an error; its text says which, and how."""


@dataclass(eq=False)
class Job:
    """One process, and what is known of its progress.

    Args:
        name (str): For people, such as ``seed 0 teacher``.
        kind (str): What it takes as long as: jobs of one kind share a measured speed.
        folder (Path): Its own; named after ``digest``, so that other settings get another folder.
        command (list[str]): What to run, in ``place``.
        product (Path): The file that must be there at the end.
        digest (str): Of everything the result depends on.
        needs (Sequence[Job]): Jobs that must be done before.
        steps (int): Training iterations; 0 for a job that does not count any.
        guess (float): Seconds it may take on one core, until something is measured.
        resumes (bool): It takes ``--resume CHECKPOINT``.
        place (Path): The folder that paths in configs are relative to.
    """
    name: str
    kind: str
    folder: Path
    command: list[str]
    product: Path
    digest: str
    needs: Sequence[Job] = ()
    steps: int = 0
    guess: float = 1.
    resumes: bool = False
    place: Path = ROOT
    threads: int = 0
    commit: str = ''
    process: subprocess.Popen | None = None
    started: float = 0.
    earlier: int = 0  # logs of earlier runs in its folder
    step: int = 0
    marks: list[tuple[float, int]] = field(default_factory=list)  # (seconds, step), of this run's ends
    loss: float | None = None
    peak: float = 0.  # MB of memory

    @property
    def log(self) -> Path:
        return self.folder / LOG

    @property
    def trains(self) -> bool:
        return self.steps > 0

    def record(self) -> dict:
        """What ``done.json`` says, or nothing."""
        try:
            return json.loads((self.folder / STAMP).read_text())
        except (OSError, ValueError):
            return {}

    def is_done(self) -> bool:
        """Whether an earlier run, or this one, has finished it."""
        return self.process is None and self.record().get('hash') == self.digest and self.product.is_file()

    def start(self, threads: int, inherited: Sequence[int] = ()) -> None:
        """Start the process with so many threads, or go on with it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.earlier = len(scalar_files(self.folder))
        checkpoint = latest_checkpoint(self.folder) if self.resumes else None
        self.command = [*self.command, *(['--resume', str(checkpoint)] if checkpoint else [])]
        self.threads, self.commit, self.started = threads, commit(), time.monotonic()
        with self.log.open('a') as log:
            print('$', *self.command, file=log, flush=True)
            # a session of its own: Ctrl-C reaches this process alone, which then stops all of a job's processes
            self.process = subprocess.Popen(
                self.command, cwd=self.place, env=environment(threads), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True, pass_fds=inherited)

    def finish(self) -> None:
        """Check how the process ended, and stamp the folder."""
        code, self.process = self.process.returncode, None
        if code == 0 and not self.product.is_file():
            raise JobFailed(f'{self.name} ended without {show(self.product)}')
        if code != 0:
            ended = f'signal {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
            raise JobFailed(f'{self.name} failed with {ended}')
        stamp = dict(hash=self.digest, command=self.command, commit=self.commit, machine=machine(),
                     threads=self.threads, peak=self.peak, seconds=round(time.monotonic() - self.started, 1))
        draft = self.folder / (STAMP + '.new')
        draft.write_text(json.dumps(stamp, indent=1))
        draft.replace(self.folder / STAMP)  # whole or not at all

    def look(self) -> None:
        """Read from MMEngine's log how far it is, and from the system how much memory it took."""
        if self.process:
            self.peak = max(self.peak, peak_memory(self.process.pid))
        lines = [line for line in read_scalars(self.folder, since=1) if 'loss' in line] if self.steps else []
        if not lines:
            return
        self.step, self.loss = lines[-1]['step'], lines[-1]['loss']
        started = len(scalar_files(self.folder)) > self.earlier
        if started and (not self.marks or self.marks[-1][1] != self.step):
            self.marks = [*self.marks[:1], (time.monotonic(), self.step)]


def digest(*texts: str) -> str:
    """A SHA-256 over texts and their borders."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def show(path: Path) -> str:
    """A path as short as can be: from here if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def run_jobs(jobs: Sequence[Job], slots: int, threads: int, watch: Callable[[Sequence[Job]], None],
             pause: float = .5, inherited: Sequence[int] = (), go_on: bool = False,
             after: Callable[[], None] = lambda: None) -> list[str]:
    """Run what is not done yet; of the jobs that are ready, the first ones first.

    Args:
        jobs (Sequence[Job]): In order of importance.
        slots (int): How many may run at once.
        threads (int): Of each.
        watch (Callable): Called often, with all jobs, to show the progress.
        pause (float): Seconds between two looks.
        inherited (Sequence[int]): File descriptors that the processes keep open.
        go_on (bool): After a failure, run what does not need the failed job.
        after (Callable): Called whenever a job has been done.

    Returns:
        list[str]: What failed, and how.

    Raises:
        JobFailed: A job failed, and not ``go_on``; the others are stopped then, as they are on Ctrl-C.
    """
    done, failures = {job for job in jobs if job.is_done()}, []
    try:
        watch(jobs)
        while not done.issuperset(jobs):
            for job in [job for job in jobs if job.process and job.process.poll() is not None]:
                try:
                    job.finish()
                except JobFailed as error:
                    failures.append(f'{error}\n{tail(job.log)}\nThe whole log: {show(job.log)}')
                    if not go_on:
                        raise JobFailed(failures[0]) from None
                    jobs = without(jobs, job)
                    continue
                done.add(job)
                after()
            running = [job for job in jobs if job.process]
            for job in list(ready(jobs, done))[:slots - len(running)]:
                job.start(threads, inherited)
            for job in running:
                job.look()
            watch(jobs)
            if not done.issuperset(jobs):
                time.sleep(pause)
    finally:
        stop(jobs)
    return failures


def without(jobs: Sequence[Job], failed: Job) -> list[Job]:
    """The jobs that can do without one."""
    gone = {failed}
    while more := {job for job in jobs if job not in gone and not gone.isdisjoint(job.needs)}:
        gone |= more
    return [job for job in jobs if job not in gone]


def stop(jobs: Sequence[Job], patience: float = 10.) -> None:
    """End all processes and their data loaders, by force after so many seconds."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave some running
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for job in (job for job in jobs if job.process):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.process.pid, number)
            end = time.monotonic() + patience
            for job in (job for job in jobs if job.process):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.process.wait(max(0, end - time.monotonic()))
                    job.process = None
    finally:
        signal.signal(signal.SIGINT, before)


def ready(jobs: Sequence[Job], done: set[Job]) -> Iterator[Job]:
    """The jobs that could start."""
    return (job for job in jobs if job not in done and not job.process and done.issuperset(job.needs))


def tail(path: Path, count: int = 30) -> str:
    """The last lines of a log."""
    return '\n'.join(path.read_text(errors='replace').splitlines()[-count:])


def lock(folder: Path):
    """Keep a second comparison out of a work folder, for as long as this one or a job of it lives.

    Raises:
        BlockingIOError: Another one runs there.
    """
    import fcntl
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / '.lock').open('w')
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file
