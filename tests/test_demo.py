"""The demo's scheduler, hashes and progress. Nothing is trained here: CI runs make demo QUICK=1."""
import dataclasses
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip('sklearn')
pytest.importorskip('matplotlib')
TOOLS = Path(__file__).resolve().parents[1] / 'tools'
sys.path.append(str(TOOLS))

import demo  # noqa: E402
import progress  # noqa: E402
from jobs import Job, JobFailed, lock, run_jobs  # noqa: E402
from training_files import latest_checkpoint  # noqa: E402


def job(folder, name, code='', needs=(), **more):
    """A job that runs some Python, notes in a file that it did, and writes its product."""
    product = folder / name / 'product'
    script = f'''{code}
open({str(folder / 'order')!r}, 'a').write('{name} ')
open({str(product)!r}, 'w').close()'''
    command = [sys.executable, '-c', script]
    return Job(name, name, folder / name, command, product, f'hash of {name}', needs, **more)


def run(jobs, slots=2, watch=lambda jobs: None):
    run_jobs(jobs, slots, 1, watch, pause=.02)


def order(folder):
    return (folder / 'order').read_text().split()


def test_jobs_wait_for_what_they_need_and_go_by_importance(tmp_path):
    teacher = job(tmp_path, 'teacher')
    test = job(tmp_path, 'test', needs=[student := job(tmp_path, 'student', needs=[teacher])])
    run([test, student, job(tmp_path, 'other'), teacher], slots=1)
    assert order(tmp_path) == ['other', 'teacher', 'student', 'test']


def test_as_many_run_at_once_as_there_are_slots(tmp_path):
    seen = []
    jobs = [job(tmp_path, f'j{i}', 'import time; time.sleep(.3)') for i in range(5)]
    run(jobs, 2, lambda jobs: seen.append(sum(j.process is not None for j in jobs)))
    assert max(seen) == 2 and len(order(tmp_path)) == 5


def test_environment_of_a_job(tmp_path):
    run([one := job(tmp_path, 'one', 'import os; print(*map(os.getenv, ("OMP_NUM_THREADS", "PYTHONPATH")))')])
    assert one.log.read_text().splitlines()[-1].startswith(f'1 {TOOLS.parent}')


def test_a_failure_shows_the_log_and_stops_the_others(tmp_path):
    slow = job(tmp_path, 'slow', 'import time; time.sleep(60)')
    bad = job(tmp_path, 'bad', '''import time; time.sleep(.5)
for i in range(50): print('line', i)
raise SystemExit(3)''')
    after = job(tmp_path, 'after', needs=[bad])
    start = time.monotonic()
    with pytest.raises(JobFailed) as caught:
        run([slow, bad, after])
    message = str(caught.value)
    assert 'bad failed with exit code 3' in message and str(bad.log) in message
    assert 'line 49' in message and 'line 20\n' in message and 'line 19\n' not in message
    assert time.monotonic() - start < 30 and slow.process is None
    assert not any(j.is_done() for j in (slow, bad, after)) and not after.folder.exists()


def test_a_job_without_its_product_has_failed(tmp_path):
    broken = dataclasses.replace(job(tmp_path, 'broken'), product=tmp_path / 'elsewhere')
    with pytest.raises(JobFailed, match='broken ended without .*elsewhere'):
        run([broken])


def test_stopping_ends_the_grandchildren_too(tmp_path):
    code = ('import subprocess, sys, time\n'
            f'child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])\n'
            f'open({str(tmp_path / "child")!r}, "w").write(str(child.pid))\ntime.sleep(60)')

    def interrupt(jobs):
        if (tmp_path / 'child').exists() and (tmp_path / 'child').read_text():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([job(tmp_path, 'parent', code)], watch=interrupt)
    child = int((tmp_path / 'child').read_text())
    for _ in range(100):  # a data loader of a stopped job must not live on
        ask = ['ps', '-o', 'stat=', '-p', str(child)]
        state = subprocess.run(ask, stdout=subprocess.PIPE, text=True).stdout
        if not state.strip() or state.startswith('Z'):
            return
        time.sleep(.05)
    pytest.fail(f'process {child} still runs')


def test_what_is_done_is_not_run_again(tmp_path):
    def jobs(**more):
        first = job(tmp_path, 'first')
        return [first, dataclasses.replace(job(tmp_path, 'second', needs=[first]), **more)]

    run(jobs())
    run(jobs())
    run(jobs(digest='another'))
    assert order(tmp_path) == ['first', 'second', 'second']
    (tmp_path / 'first' / 'product').unlink()
    run(jobs(digest='another'))
    assert order(tmp_path) == ['first', 'second', 'second', 'first']
    stamp = json.loads((tmp_path / 'first' / 'done.json').read_text())
    assert stamp['hash'] == 'hash of first' and stamp['threads'] == 1
    assert stamp['command'][0] == sys.executable


def write_checkpoint(path):
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('data', 'x' * 1000)


def test_an_interrupted_training_resumes_from_its_newest_whole_checkpoint(tmp_path):
    training = job(tmp_path, 'training', resumes=True)
    training.folder.mkdir()
    assert latest_checkpoint(training.folder) is None
    for epoch in (9, 10, 11):
        write_checkpoint(training.folder / f'epoch_{epoch}.pth')
    cut = training.folder / 'epoch_11.pth'
    cut.write_bytes(cut.read_bytes()[:500])
    run([training])
    assert training.record()['command'][-2:] == ['--resume', str(training.folder / 'epoch_10.pth')]


def test_a_second_demo_stays_out_while_a_job_of_the_first_lives(tmp_path):
    held = lock(tmp_path)
    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE,
                             pass_fds=[held.fileno()])
    held.close()
    with pytest.raises(BlockingIOError):
        lock(tmp_path)
    child.communicate(b'\n')
    lock(tmp_path).close()


def digests(jobs):
    return {key: job.digest for key, job in jobs.items()}


@pytest.fixture
def planned(tmp_path):  # plans jobs on a made-up data set
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/train.json').write_text(json.dumps(dict(images=[0] * 20)))
    stamp = tmp_path / 'digits.json'

    def function(*argv, data='as it is'):
        stamp.write_text(data)
        args = demo.parse_args(['--work-dir', str(tmp_path / 'work'), *argv])
        trainings, tests = demo.plan(args, str(tmp_path))
        assert all(tests[key].needs == [trained] for key, trained in trainings.items())
        return trainings
    return function


def test_plan(planned):
    jobs = planned('--seeds', '2', '--first-seed', '5', '--quick')
    assert sorted(jobs) == [(kind, seed) for kind in ('gkd', 'student', 'teacher') for seed in (5, 6)]
    distilled, teacher = jobs['gkd', 5], jobs['teacher', 5]
    assert distilled.needs == [teacher] and distilled.steps == 5 and distilled.product.name == 'epoch_1.pth'
    assert f'model.teacher.checkpoint={teacher.product}' in distilled.command
    assert 'randomness.seed=5' in distilled.command and 'train_cfg.max_epochs=1' in distilled.command
    assert distilled.folder.name == f'gkd-{distilled.digest[:8]}' and distilled.folder.parent.name == 'seed5'
    assert len(set(digests(jobs).values())) == 6


def test_hashes_change_with_what_the_result_depends_on(planned, monkeypatch):
    before = digests(planned())
    assert digests(planned()) == before
    for changed in (digests(planned(data='other')), digests(planned('--quick'))):
        assert not set(changed.values()) & set(before.values())
    assert digests(planned('--seeds', '2'))['gkd', 0] == before['gkd', 0]
    monkeypatch.setattr(demo, 'sources', lambda: 'edited')
    edited = digests(planned())
    changed = [key for key in before if edited[key] != before[key]]
    assert changed == [('gkd', 0)]  # the others run nothing of mmgkd


def test_bad_arguments(capsys):
    for argv, says in ((['--seeds', '0'], '--seeds must be at least 1, got 0'),
                       (['--work-dir', 'a,b'], 'comma')):
        with pytest.raises(SystemExit):
            demo.parse_args(argv)
        assert says in capsys.readouterr().err


def test_progress_without_a_terminal(tmp_path):
    console = Console(record=True, width=200, force_terminal=False)
    scalars = tmp_path / 'training' / '2026' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True)
    scalars.write_text('{"loss": 2.5, "step": 30, "time": 1}\n{"coco/bbox_mAP": 0.1, "step": 3}\n{"loss": 1')
    training = job(tmp_path, 'training', 'import time; time.sleep(.5)', steps=120, guess=60.)
    with progress.Watch(console, 2, every=.2) as watch:
        run([training, job(tmp_path, 'test', needs=[training])], watch=watch)
    text = console.export_text()
    assert 'running: training (30/120)' in text and 'left' in text and 'elapsed 0:00:00' in text
    assert 'training: done in 0:00:0' in text and 'test: done in' in text


def test_progress_on_a_terminal(tmp_path):
    console = Console(record=True, width=120, force_terminal=True, file=open(os.devnull, 'w'))
    with progress.Watch(console, 2) as watch:
        one = job(tmp_path, 'one', 'import time; time.sleep(.3)', steps=10)
        run([one, job(tmp_path, 'two')], watch=watch)
        shown = {task.description for task in watch.bars.tasks}
    assert '[bold]all' in shown and 'one: done' in console.export_text()


def test_forecast_follows_the_schedule(tmp_path):
    teacher = job(tmp_path, 'teacher')
    students = [job(tmp_path, name, needs=[teacher]) for name in ('gkd', 'student')]
    jobs = [teacher, *students, job(tmp_path, 'other')]
    left = dict(zip(jobs, (10., 20., 15., 12.), strict=True))
    assert progress.forecast(jobs, set(), left, 2) == 30.  # 10, then 20 beside 2 and 15
    assert progress.forecast(jobs, set(), left, 1) == 57.
    assert progress.forecast(jobs, {teacher}, left, 3) == 20.


def test_the_log_of_an_earlier_run_tells_the_step_but_not_the_pace(tmp_path):
    training = job(tmp_path, 'training', steps=100)
    for run_of, step in (('2026', 40), ('2027', 41)):
        scalars = training.folder / run_of / 'vis_data' / 'scalars.json'
        scalars.parent.mkdir(parents=True)
        scalars.write_text(json.dumps(dict(loss=1., step=step)))
        training.earlier = 1
        training.look()
        assert training.step == step and [mark[1] for mark in training.marks] == [41] * (step == 41)


def test_durations_are_measured_on_the_kind_or_scaled(tmp_path):
    jobs = [job(tmp_path, name, steps=100, guess=50.) for name in ('a', 'b')]
    jobs[0].marks = [(0., 10), (20., 20)]
    times = progress.durations([*jobs, dataclasses.replace(jobs[0], marks=[])])
    assert [round(value - progress.START) for value in times.values()] == [200, 200, 200]
