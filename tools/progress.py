"""Shows how far jobs are and how long they will take: bars on a terminal, else a line now and then."""
from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from jobs import Job, ready
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

FIELDS = ('count', 'loss', 'left')
START = 8.  # seconds a job needs before its first iteration, roughly


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(timedelta(seconds=round(seconds)))


def durations(jobs: Sequence[Job]) -> dict[Job, float]:
    """Seconds each job takes from beginning to end: as measured on its kind, else a guess, scaled."""
    kinds = {}
    for job in jobs:
        if job.marks and job.marks[-1][1] > job.marks[0][1]:
            (begin, first), (end, last) = job.marks[0], job.marks[-1]
            kinds.setdefault(job.kind, []).append((end - begin) / (last - first))
    paces = {kind: sum(found) / len(found) for kind, found in kinds.items()}
    known = {job: paces[job.kind] * job.steps for job in jobs if job.kind in paces}
    scale = sum(known.values()) / sum(job.guess for job in known) if known else 1.
    return {job: START + known.get(job, scale * job.guess) for job in jobs}


def still(job: Job, duration: float, now: float) -> float:
    """Seconds that a job which takes ``duration`` still needs."""
    if not job.process:
        return duration
    part = 1 - job.step / job.steps if job.steps else 1.
    if job.marks:
        return max(1., (duration - START) * part - (now - job.marks[-1][0]))
    return max(1., START + (duration - START) * part - (now - job.started))


def forecast(jobs: Sequence[Job], done: set[Job], left: dict[Job, float], slots: int) -> float:
    """Seconds until all jobs are done, if the scheduler does as it does."""
    done, moment = set(done), 0.
    ends = {job: left[job] for job in jobs if job.process}
    while len(done) < len(jobs):
        free = [job for job in ready(jobs, done) if job not in ends]
        ends |= {job: moment + left[job] for job in free[:slots - len(ends)]}
        first = min(ends, key=ends.get)
        moment = ends.pop(first)
        done.add(first)
    return moment


class Watch:
    """What ``run_jobs`` calls to show the progress.

    Args:
        console (Console): Where to.
        slots (int): How many jobs run at once.
        every (float): Seconds between two lines, without a terminal.
    """

    def __init__(self, console: Console, slots: int, every: float = 15.) -> None:
        self.console, self.slots, self.every = console, slots, every
        self.begin = self.spoken = time.monotonic()
        self.part, self.done = 0., None
        self.bars = Progress(
            TextColumn('{task.description}'), BarColumn(), *(
                TextColumn(f'{{task.fields[{name}]}}') for name in FIELDS), console=console, transient=True)
        self.tasks = {}

    def __enter__(self) -> Watch:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_) -> None:
        self.bars.stop()

    def __call__(self, jobs: Sequence[Job]) -> None:
        now = time.monotonic()
        done = {job for job in jobs if job.is_done()}
        self.announce(jobs, done)
        times = durations(jobs)
        left = {job: 0. if job in done else still(job, times[job], now) for job in jobs}
        rest = forecast(jobs, done, left, self.slots)
        self.part = max(self.part, 1 - sum(left.values()) / (sum(times.values()) or 1.))
        if self.console.is_terminal:
            self.draw(jobs, left, rest)
        elif now - self.spoken >= self.every:
            self.spoken = now
            running = ', '.join(f'{job.name}{count(job)}' for job in jobs if job.process)
            self.console.print(
                f'{self.part:4.0%}  elapsed {clock(now - self.begin)}, about {clock(rest)} left; '
                f'running: {running}', highlight=False, soft_wrap=True)

    def announce(self, jobs: Sequence[Job], done: set[Job]) -> None:
        """Say which jobs are done, once."""
        for job in jobs:
            if job in done and job not in (self.done or ()):
                how = 'by an earlier run' if self.done is None else f'in {clock(job.record()["seconds"])}'
                self.console.print(f'{job.name}: done {how}', highlight=False, soft_wrap=True)
        self.done = done

    def draw(self, jobs: Sequence[Job], left: dict[Job, float], rest: float) -> None:
        """Bring the bars up to date: one for all, one for each running job."""
        empty = dict.fromkeys(FIELDS, '')
        if None not in self.tasks:
            self.tasks[None] = self.bars.add_task('[bold]all', total=1., **empty)
        for job in [job for job in self.tasks if job and not job.process]:
            self.bars.remove_task(self.tasks.pop(job))
        for job in (job for job in jobs if job.process):
            if job not in self.tasks:
                self.tasks[job] = self.bars.add_task(job.name, total=job.steps or None, **empty)
            self.bars.update(
                self.tasks[job], completed=job.step, count=count(job).strip(' ()'),
                loss='' if job.loss is None else f'loss {job.loss:.2f}', left=f'{clock(left[job])} left')
        self.bars.update(self.tasks[None], completed=self.part, count=f'{self.part:.0%}',
                         left=f'{clock(rest)} left')


def count(job: Job) -> str:
    """The iterations done of all, if it counts any."""
    return f' ({job.step}/{job.steps})' if job.steps else ''
