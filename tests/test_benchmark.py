"""The benchmark: what it measures is what it says, and nothing is measured twice under two names."""
import json
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / 'tools'))

import benchmark  # noqa: E402
from benchmark_parts import FLOOR, LIMIT, STUDENT, TEACHER, Bench, Settings  # noqa: E402
from benchmark_peer import peer  # noqa: E402

PAIR = str(ROOT / 'configs/digits/gkd.py')
METHODS = ROOT / 'configs/_base_'
PEER = """
import torch
def distance(student, teacher):
    return (student - teacher).square().mean()
class Distance(torch.nn.Module):
    def forward(self, student, teacher):
        return distance(student, teacher)
"""


@pytest.fixture(scope='module')
def bench():
    configs = {name: Config.fromfile(PAIR) for name in ('gkd', 'kd')}
    configs['kd'] = benchmark.with_method(configs['kd'], dict(kd=dict(type='KLLoss')), [])
    heads = dict(type='AttentionGraphLoss', compress='mean')
    configs['mhgd'] = benchmark.with_method(configs['kd'], dict(mhgd=heads), [])
    return Bench(configs, Settings((64, 96), 2, torch.device('cpu')))


def test_all_students_are_alike_and_stay_so(bench):
    """Else they would find other boxes, and their steps take another time."""
    plain, distiller = bench.student(), bench.distiller('gkd')
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    assert all(torch.equal(value, distiller.student.state_dict()[key]) for key, value in before.items())
    assert bench.step(plain, bench.first)()['loss'] > 0
    assert all(torch.equal(value, before[name]) for name, value in plain.named_parameters())


def test_the_distillers_teacher_is_the_plain_one(bench):
    expected, found = bench.plain_teacher()(), bench.teacher()()
    assert all((a - b).norm() < 1e-4 * a.norm() for a, b in zip(expected, found, strict=True))


def test_parts(bench):
    assert [name for name in bench.parts() if name.startswith(('gkd', 'kd:'))] == [
        'gkd: step', 'gkd: vertex alone', 'gkd: edge alone', 'gkd: spectral alone', 'gkd: gkd, all terms',
        'kd: step', 'kd: kd, all terms']


@pytest.mark.parametrize('part', ['gkd: edge alone', 'kd: kd, all terms', 'mhgd: mhgd, all terms'])
def test_a_term_goes_there_and_back(bench, part):
    """The gradient arrives at the student's maps, or at its logits, the same each time."""
    run = bench.parts()[part]()
    first, second = ([x.grad.clone() for x in run() if x.grad is not None] for _ in range(2))
    assert any(x.any() for x in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_is_counted():
    """A product, a sum and the value that is asked for; views are no calls."""
    x = torch.ones(4, 8)
    counts = benchmark.operations(lambda: float((x @ x.mT).sum()))
    assert counts == dict(flop=2 * 4 * 8 * 4, calls=3, waits=1)
    assert benchmark.operations(lambda: x[x > 0])['waits'] == 1
    assert benchmark.operations(lambda: x[torch.arange(2)])['waits'] == 0


def test_gkd_waits_for_its_eigen_solver_alone(bench):
    """For all levels once, as it looks whether it failed."""
    parts = bench.parts()
    assert benchmark.operations(parts['gkd: gkd, all terms']())['waits'] == 1
    assert benchmark.operations(parts['gkd: edge alone']())['waits'] == 0
    assert benchmark.operations(parts[FLOOR]())['waits'] == 0


@pytest.mark.parametrize('name', ['distance', 'Distance'])
def test_a_loss_from_elsewhere(tmp_path, name):
    (tmp_path / 'theirs.py').write_text(PEER)
    loss = peer(str(tmp_path / 'theirs.py'), name)()
    student, teacher = [torch.ones(1, 2, 3, 4)], [torch.full((1, 2, 3, 4), 3.)]
    assert float(loss(student, teacher)['peer'][0]) == 4.
    with pytest.raises(SystemExit, match='defines no nothing'):
        peer(str(tmp_path / 'theirs.py'), 'nothing')
    with pytest.raises(SystemExit, match='no file'):
        peer(str(tmp_path / 'nowhere.py'), name)


def test_a_whole_benchmark(tmp_path, capsys):
    (tmp_path / 'theirs.py').write_text(PEER)
    benchmark.main([PAIR, '--vs', str(METHODS / 'pkd.py'), '--peer', str(tmp_path / 'theirs.py'), 'distance',
                    '--shape', '64', '96', '--repeat', '2', '--out', str(tmp_path / 'out.json'),
                    '--only', 'limit', 'student alone', 'gkd: step', 'peer: step', 'pkd: pkd',
                    '--cfg-options', 'model.teacher.dtype=bfloat16'])
    result = json.loads((tmp_path / 'out.json').read_text())
    assert list(result['seconds']) == [STUDENT, LIMIT, 'gkd: step', 'pkd: pkd, all terms', 'peer: step']
    assert all(len(times) == 2 and min(times) > 0 for times in result['seconds'].values())
    assert set(result['peak_MB']) == {STUDENT, LIMIT, 'gkd: step', 'peer: step'}
    assert all(100 < peak < 3000 for peak in result['peak_MB'].values())
    teacher = result['models']['teacher']['flop']
    flop = {name: counts['flop'] for name, counts in result['operations'].items()}
    assert flop[LIMIT] == pytest.approx(flop[STUDENT] + teacher, rel=1e-6)
    assert result['models']['student']['parameters'] < result['models']['teacher']['parameters']
    assert 'naive limit' in capsys.readouterr().out


@pytest.mark.parametrize('options, complaint', [
    (['nowhere.py'], 'no config file'), ([PAIR, '--batch', '0'], '--batch must be at least 1'),
    ([PAIR, '--shape', '32', '512'], '--shape must be at least 64'), ([PAIR, '--out', '/nowhere/x.json'], 'no folder'),
    ([PAIR, '--vs', 'nowhere.py'], 'no config file')])
def test_mistakes_on_the_command_line(options, complaint, capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(options)
    assert complaint in capsys.readouterr().err


def test_what_is_no_distillation(tmp_path):
    with pytest.raises(SystemExit, match='is no distillation'):
        benchmark.read(benchmark.parse_args([str(ROOT / 'configs/digits/student.py')]))
    with pytest.raises(SystemExit, match='leaves nothing of student alone'):
        benchmark.main([PAIR, '--shape', '64', '64', '--only', 'nothing'])


def test_names_are_told_apart():
    found = benchmark.read(benchmark.parse_args([PAIR, '--vs', PAIR, str(METHODS / 'pkd.py')]))
    assert list(found) == ['gkd', 'gkd_2', 'pkd']
    assert list(found['pkd'].model.distill_losses) == ['pkd'] and TEACHER != STUDENT
