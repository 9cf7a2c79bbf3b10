"""The comparison of methods: what it trains, what it makes of the logs, and a whole one of a minute."""
import json
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

pytest.importorskip('sklearn')
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / 'tools'))

import compare  # noqa: E402
import compare_report  # noqa: E402
import own_terms  # noqa: E402
from compare_report import cells, summary  # noqa: E402
from demo_jobs import JobFailed, run_jobs  # noqa: E402
from test_demo import job, order  # noqa: E402

PAIR = ROOT / 'configs/digits/gkd.py'


def pair():
    return Config.fromfile(str(PAIR))


def test_every_method_file_is_found_for_the_students_it_fits():
    two_stage, one_stage = ({name: path.parent.name for name, path in compare.method_files(student).items()}
                            for student in (dict(roi_head=1), dict(bbox_head=dict(type='GFLHead'))))
    assert two_stage['gkd'] == one_stage['gkd'] == '_base_'
    assert not {'digits', 'bccd', 'small_schedule'} & set(two_stage)
    assert set(one_stage) - set(two_stage) == {'ld'} and set(two_stage) <= set(one_stage)
    assert 'ld' not in compare.method_files(dict(bbox_head=dict(type='RetinaHead')))
    for name in compare.method_files(dict(head=1)):
        assert (ROOT / f'configs/_base_/classification/{name}.py').is_file()


def test_what_is_trained():
    found = compare.variants(pair(), {'own': ROOT / 'configs/_base_/gkd.py'})
    assert list(found) == ['alone', 'inherit', 'own']
    methods = {name: ROOT / f'configs/_base_/{name}.py' for name in ('gkd', 'pkd', 'fgd')}
    assert [list(cfg.model.distill_losses) for cfg in list(compare.variants(pair(), methods).values())[2:]] \
        == [['gkd'], ['pkd'], ['fgd']]
    assert found['alone'].model.type == 'FasterRCNN' and not found['alone'].custom_hooks
    assert found['own'].model.to_dict() == pair().model.to_dict()
    assert found['inherit'].custom_hooks[0].stop == 0
    plain = pair()
    plain.model.inherit = None
    assert list(compare.variants(plain, {})) == ['alone']


def test_a_pairs_own_hooks_stay_and_a_methods_imports_come(tmp_path):
    (tmp_path / 'mine.py').write_text("custom_imports = dict(imports=['json'])\n"
                                      "distill_losses = dict(mine=dict(type='MyLoss'))\n")
    given = pair()
    given.custom_hooks = [dict(type='EMAHook'), *given.custom_hooks]
    found = compare.variants(given, {'mine': tmp_path / 'mine.py', 'hkd': ROOT / 'configs/_base_/hkd.py'})
    assert found['mine'].custom_imports.imports == ['mmgkd', 'json']
    assert [[hook['type'] for hook in cfg.custom_hooks] for cfg in found.values()] == [
        ['EMAHook'], ['EMAHook', 'DistillWeightHook'], ['EMAHook'], ['EMAHook', 'DistillWeightHook']]


def test_numbers_that_json_does_not_know():
    assert compare_report.finite_only([dict(a=(1., float('nan')), b='x', c=2)]) == [dict(a=[1., None], b='x', c=2)]


def test_unknown_methods_are_an_error_that_names_the_known_ones():
    with pytest.raises(SystemExit, match=r"no method \['nothing'\].*gkd"):
        compare.find_methods(['gkd', 'nothing'], dict(roi_head=1))
    with pytest.raises(SystemExit, match='defines no distill_losses'):
        compare.variants(pair(), {'x': ROOT / 'configs/_base_/digits.py'})


def test_a_config_of_ones_own_is_a_method():
    path = str(ROOT / 'configs/_base_/gkd.py')
    assert compare.find_methods([path], dict(roi_head=1)) == {'gkd': Path(path)}


def test_data_that_are_not_there_are_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="no 'data/digits/annotations/train.json'"):
        compare.main([str(PAIR), '--work-dir', str(tmp_path / 'out')])
    with pytest.raises(SystemExit):
        compare.parse_args(['nowhere.py'])


def run_of(name, seed, score, seconds=1., **more):
    run = dict(name=name, seed=seed, metric='mAP', score=score, seconds=seconds, peak=100., terms={}, finite=True)
    return run | more


def test_gains_are_paired_over_seeds():
    rows = summary([run_of('alone', 0, 10.), run_of('alone', 1, 20.), run_of('x', 0, 13., 2.), run_of('x', 1, 21., 4.),
                    run_of('y', 1, 21.)])
    assert rows[1]['gains'] == [3., 1.] and rows[1]['time'] == 3. and rows[0]['gains'] == []
    assert rows[2]['gains'] == [1.] and cells(rows[1])[1:3] == ('17.0 ± 5.7', '+2.0 ± 1.4')


def test_what_diverged_is_called_so():
    bad = run_of('x', 0, 0., finite=False)
    assert [cells(row)[0] for row in summary([run_of('alone', 0, 10.), bad])] == ['alone', 'x (diverged)']


def test_a_method_that_did_nothing_to_its_own_terms_is_called_so():
    runs = [run_of('x', 0, 1., terms=dict(x_a=(1., .5), x_b=(1., 2.))), run_of('y', 0, 1., terms=dict(y_a=(1., 1.)))]
    first, second = [cells(row) for row in summary(runs)]
    assert first[0] == 'x' and first[3] == 'a 1 → 0.5, b 1 → 2'
    assert second[0] == 'y (no term of its own fell)'


def test_a_whole_comparison(tmp_path, capsys):
    """Teacher, student alone, two methods and what these did to their own terms; and again, with nothing left to do."""
    for name, more in (('teacher', ''), ('gkd', """
model = dict(teacher=dict(config='{{ fileDirname }}/teacher.py'))
train_dataloader = dict(batch_size=100)""")):
        (tmp_path / f'{name}.py').write_text(
            f"_base_ = [{str(ROOT / f'configs/digits_cls/{name}.py')!r}]\ntrain_cfg = dict(max_epochs=1){more}\n")
    command = [str(tmp_path / 'gkd.py'), '--methods', 'kd', 'rkd', '--work-dir', str(tmp_path / 'out'), '--jobs', '2']
    compare.main(command)
    results = {row['name']: row for row in json.loads((tmp_path / 'out/results.json').read_text())}
    assert set(results) == {'teacher', 'alone', 'kd', 'rkd'} and all(row['finite'] for row in results.values())
    assert results['kd']['peak'] > 100 and results['kd']['seconds'] > 0
    stored = (tmp_path / 'out/seed0').glob('kd-*/own_terms/terms.json')
    assert json.loads(next(stored).read_text()) == results['kd']['terms']
    assert set(results['rkd']['terms']) == {'rkd_distance', 'rkd_angle'}
    assert all(value > 0 for pair in results['rkd']['terms'].values() for value in pair)
    text = (tmp_path / 'out/results.md').read_text()
    assert '| kd | ' in text and 'divergence' not in text and 'kl ' in text
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*.pth')}
    compare.main(command)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*.pth')}


def test_own_terms_differ_by_the_student_alone(tmp_path):
    """The same student on both sides has the same terms; another has others, all else equal."""
    cfg = Config.fromfile(str(ROOT / 'configs/digits_cls/gkd.py'))
    cfg.model.distill_losses = dict(pkd=dict(type='PKDLoss'))
    cfg.model.teacher = dict(config=str(ROOT / 'configs/digits_cls/teacher.py'), checkpoint=None, allow_random=True)
    paths = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = MODELS.build(cfg.model)
        model.init_weights()
        paths.append(str(tmp_path / f'{seed}.pth'))
        torch.save(dict(state_dict=model.state_dict()), paths[-1])
    same, = own_terms.own_terms(cfg, paths[0], paths[0], 2).values()
    other, = own_terms.own_terms(cfg, paths[0], paths[1], 2).values()
    assert same[0] == same[1] == other[1] != other[0]


def test_a_failure_spares_what_does_not_need_it(tmp_path):
    bad = job(tmp_path, 'bad', 'raise SystemExit(3)')
    jobs = [bad, job(tmp_path, 'after', needs=[bad]), job(tmp_path, 'good')]
    failures = run_jobs(jobs, 1, 1, lambda jobs: None, pause=.02, go_on=True)
    assert len(failures) == 1 and 'bad failed with exit code 3' in failures[0]
    assert order(tmp_path) == ['good']
    with pytest.raises(JobFailed, match='bad failed'):
        run_jobs(jobs, 1, 1, lambda jobs: None, pause=.02)


def test_memory_is_measured(tmp_path):
    jobs = [job(tmp_path, 'big', 'import time; x = bytearray(2 ** 27); time.sleep(.5)', steps=1)]
    run_jobs(jobs, 1, 1, lambda jobs: None, pause=.05)
    assert 128 < json.loads((tmp_path / 'big/done.json').read_text())['peak'] < 400
