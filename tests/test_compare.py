"""The comparison of methods: what it trains, what it makes of the logs, and a whole one of a minute."""
import gzip
import hashlib
import itertools
import json
import math
import pickle
import subprocess
import sys
from pathlib import Path

import mmcv
import pytest
import scipy.stats
import torch
from conftest import raw_batch, run_config
from mmdet.evaluation import CocoMetric
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope

pytest.importorskip('sklearn')
ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / 'tools'))

import compare  # noqa: E402
import compare_examples  # noqa: E402
import compare_figure  # noqa: E402
import compare_html  # noqa: E402
import compare_identity  # noqa: E402
import compare_log  # noqa: E402
import compare_pairs  # noqa: E402
import compare_plan  # noqa: E402
import compare_report  # noqa: E402
import compare_teachers  # noqa: E402
import compare_variants  # noqa: E402
import own_terms  # noqa: E402
from compare_report import cells, summary  # noqa: E402
from jobs import Job, JobFailed, run_jobs  # noqa: E402
from machine import machine  # noqa: E402
from plots import apart  # noqa: E402
from rich.console import Console  # noqa: E402
from test_demo import job, order  # noqa: E402

from mmgkd.detectors import model_config  # noqa: E402
from mmgkd.hooks import DistillWeightHook  # noqa: E402

PAIR = ROOT / 'configs/digits/gkd.py'


def pair():
    return Config.fromfile(str(PAIR))


def test_every_method_file_is_found_for_the_students_it_fits():
    two_stage, one_stage = ({name: path.parent.name for name, path in compare_variants.method_files(student).items()}
                            for student in (dict(roi_head=1), dict(bbox_head=dict(type='GFLHead'))))
    assert two_stage['gkd'] == one_stage['gkd'] == '_base_'
    assert not {'digits', 'bccd', 'small_schedule'} & set(two_stage)
    assert set(one_stage) - set(two_stage) == {'ld'} and set(two_stage) <= set(one_stage)
    assert 'ld' not in compare_variants.method_files(dict(bbox_head=dict(type='RetinaHead')))
    for name in compare_variants.method_files(dict(head=1)):
        assert (ROOT / f'configs/_base_/classification/{name}.py').is_file()


def test_what_is_trained():
    found = compare_variants.variants(pair(), ['gkd', 'pkd', 'fgd'])
    assert list(found) == ['alone', 'inherit', 'gkd', 'pkd', 'fgd']
    assert [list(cfg.model.distill_losses) for cfg in list(found.values())[2:]] == [['gkd'], ['pkd'], ['fgd']]
    assert found['alone'].model.type == 'FasterRCNN' and not found['alone'].custom_hooks
    assert found['gkd'].model.to_dict() == pair().model.to_dict()
    assert found['inherit'].custom_hooks[0].stop == 0
    plain = pair()
    plain.model.inherit = None
    assert list(compare_variants.variants(plain, [])) == ['alone']


def test_changes_after_colons():
    found = compare_variants.variants(pair(), [
        'alone:train_cfg.max_epochs=24', 'gkd:model.distill_losses.gkd.edge_weight=0.:model.inherit=None', 'gkd'])
    assert list(found) == ['alone', 'inherit', 'alone:max_epochs=24', 'gkd:edge_weight=0.:inherit=None', 'gkd']
    long, changed, plain = list(found.values())[2:]
    assert long.train_cfg.max_epochs == 24 and long.model.type == 'FasterRCNN'
    assert found['alone'].train_cfg.max_epochs == pair().train_cfg.max_epochs
    assert changed.model.distill_losses.gkd.edge_weight == 0 and changed.model.inherit is None
    assert plain.model.to_dict() == pair().model.to_dict()
    with pytest.raises(SystemExit, match="no method 'gkd:edge_weight'"):
        compare_variants.variants(pair(), ['gkd:edge_weight'])
    with pytest.raises(SystemExit, match="alone:optimizer.lr=1|the config has no 'optimizer' there"):
        compare_variants.variants(pair(), ['alone:optimizer.lr=1'])
    with pytest.raises(SystemExit, match='two rows would be called gkd'):
        compare_variants.variants(pair(), ['gkd', 'gkd'])


def test_changes_in_short_are_those_of_the_whole_path():
    L = 'model.distill_losses.gkd'
    names = ['edge_weight=0.', 'pooled=True', 'inherit=None', 'max_epochs=3', 'indices=40']
    paths = [f'{L}.edge_weight=0.', f'{L}.pooled=True', 'model.inherit=None', 'train_cfg.max_epochs=3',
             'train_dataloader.dataset.indices=40']
    short, whole = ([*compare_variants.variants(pair(), [':'.join(['gkd', *some])]).items()][-1]
                    for some in (names, paths))
    assert short[0] == whole[0] == ':'.join(['gkd', *names])  # what a row is called can be typed again
    assert short[1].to_dict() == whole[1].to_dict() and short[1].model.inherit is None
    falling = ROOT / 'configs/study/gkd_falling.py'
    assert [*compare_variants.variants(pair(), [f'{falling}:stop=0.9']).values()][-1].custom_hooks[-1].stop == .9


@pytest.mark.parametrize(('change', 'told'), [
    ('edge_wieght=0', "knows 'edge_wieght' .meant edge_weight?"), ('lr=1', 'such as optim_wrapper.optimizer.lr'),
    ('model.distill_losses.gkd.edge_wieght=0', "ChannelGraphLoss has no 'edge_wieght' .meant edge_weight?"),
    ('train_cfg.max_epoch=3', 'meant max_epochs?'), ('model.student.neck.num_out=3', "FPN has no 'num_out'"),
    ('loss_weight=2', 'may be model.distill_losses.a.loss_weight or model.distill_losses.b.loss_weight')])
def test_changes_that_fit_nowhere_are_refused(change, told, tmp_path):
    two = tmp_path / 'two.py'
    two.write_text("distill_losses = dict(a=dict(type='PKDLoss'), b=dict(type='CWDLoss'))")
    with pytest.raises(SystemExit, match=told):
        compare_variants.variants(pair(), [f'{two if "loss_weight" in change else "gkd"}:{change}'])


def test_changes_are_read_as_on_the_command_line():
    loss = 'gkd:model.distill_losses.gkd'
    found = compare_variants.variants(pair(), [
        f'{loss}.pooled=false', f'{loss}.attention=[spatial,channel]', 'gkd:model.teacher.checkpoint=http://x.y/z.pth'])
    values = [cfg.model.distill_losses.gkd for cfg in list(found.values())[2:4]]
    assert values[0].pooled is False and values[1].attention == ['spatial', 'channel']
    assert found['gkd:checkpoint=http://x.y/z.pth'].model.teacher.checkpoint == 'http://x.y/z.pth'


def test_all_weights_of_a_method_at_once():
    found = compare_variants.variants(pair(), ['fgd', 'fgd:weights*=4', 'pkd:weights*=0.1'])
    plain, scaled = (found[name].model.distill_losses.fgd for name in ('fgd', 'fgd:weights*=4'))
    changed = {name for name in plain if plain[name] != scaled[name]}
    assert changed == {'foreground_weight', 'background_weight', 'attention_weight', 'relation_weight'}
    assert all(scaled[name] == pytest.approx(4 * plain[name]) for name in changed)
    assert found['pkd:weights*=0.1'].model.distill_losses.pkd.loss_weight == .6
    for wrong in ('pkd:weights*=-1', 'pkd:weights*=x', 'pkd:loss_weight*=2'):
        with pytest.raises(SystemExit, match='such as weights.*=4'):
            compare_variants.variants(pair(), [wrong])
    with pytest.raises(SystemExit, match='no distillation loss'):
        compare_variants.variants(pair(), ['alone:weights*=2'])


def test_files_are_not_taken_for_the_references(tmp_path):
    (tmp_path / 'alone.py').write_text("distill_losses = dict(x=dict(type='PKDLoss'))")
    with pytest.raises(SystemExit, match='give the file another name'):
        compare_variants.variants(pair(), [str(tmp_path / 'alone.py')])


def test_the_content_of_files_is_part_of_a_training(tmp_path):
    def found(**teacher):
        teacher |= dict(config=str(tmp_path / 't.py'))
        model = dict(type='Distiller', student=str(tmp_path / 's.py'), teacher=teacher)
        data = dict(dataset=dict(data_root=f'{tmp_path}/', ann_file='a.json'))
        return compare_identity.identity(Config(dict(model=model, train_dataloader=data)))
    seen = []
    for name, text in (('s.py', ''), ('t.py', ''), ('a.json', 'x'), ('w.pth', 'x'), ('t.py', ', depth=3'),
                       ('a.json', 'y'), ('w.pth', 'y'), ('s.py', ', depth=3')):
        config = f"model = dict(type='X', backbone=dict(type='Y'{text}))"
        (tmp_path / name).write_text(config if name.endswith('.py') else text)
        if (tmp_path / 'w.pth').exists():
            seen.append(found(checkpoint=str(tmp_path / 'w.pth')))
    assert len(set(seen)) == len(seen) == 5
    inline = dict(overrides=dict(backbone=dict(depth=4)), checkpoint=None)
    assert found(**inline) != found(checkpoint=None)


@pytest.fixture
def made(monkeypatch, digits, tmp_path):
    """A pair whose data are there, and the plan of a comparison of it."""
    for name in ('teacher', 'gkd'):
        more = "model = dict(teacher=dict(config='{{ fileDirname }}/teacher.py'))" if name == 'gkd' else ''
        loaders = '\n'.join(f"{split}_dataloader = dict(dataset=dict(data_root='{digits}/'))" for split in (
            'train', 'val', 'test'))
        metrics = '\n'.join(f"{split}_evaluator = dict(ann_file='{digits}/annotations/val.json')" for split in (
            'val', 'test'))
        (tmp_path / f'{name}.py').write_text(
            f"_base_ = [{str(ROOT / f'configs/digits/{name}.py')!r}]\n{loaders}\n{metrics}\n{more}\n")
    return lambda *wanted, **more: compare_plan.plan(
        Config.fromfile(str(tmp_path / 'gkd.py')), wanted, [0, 1], tmp_path / 'out', **more)


def test_the_plan(made):
    plan = made('gkd', 'gkd:model.inherit=None', 'alone:train_cfg.max_epochs=3')
    names = ['teacher', 'alone', 'inherit', 'gkd', 'gkd:inherit=None', 'alone:max_epochs=3']
    assert sorted({name for name, _ in plan.trainings}) == sorted(names) and len(plan.trainings) == 12
    assert plan.trainings['gkd', 1].needs == [plan.trainings['teacher', 1]]
    assert plan.trainings['alone', 1].needs == []
    assert {name for name, _ in plan.terms} == {'gkd', 'gkd:inherit=None'}
    for name, without in (('gkd', 'inherit'), ('gkd:inherit=None', 'alone')):
        assert plan.terms[name, 0].needs[1] is plan.trainings[without, 0]
    assert [key for key in plan.tests] == [(name, 0) for name in names]


def test_another_teacher_is_trained_beside_the_pairs(made, tmp_path):
    (tmp_path / 'wide.py').write_text("_base_ = './teacher.py'\nmodel = dict(backbone=dict(base_channels=64))")
    torch.save({}, tmp_path / 'mine.pth')
    plan = made(f'gkd:model.teacher.config={tmp_path}/wide.py', f'gkd:model.teacher.checkpoint={tmp_path}/mine.pth')
    names = {name for name, _ in plan.trainings}
    wide = next(name for name in names if name.startswith('gkd:config='))
    own = next(name for name in names if name.startswith('gkd:checkpoint='))
    assert f'teacher of {wide}' in names and 'teacher' in names
    assert plan.trainings[wide, 0].needs == [plan.trainings[f'teacher of {wide}', 0]]
    assert plan.trainings[own, 0].needs == []  # a checkpoint of one's own is kept


def give(folder, **teacher):
    """Let the pair that ``made`` wrote name a teacher's checkpoint of one's own, and more."""
    given = dict(checkpoint=str(folder / 'mine.pth'), **teacher)
    pair = folder / 'gkd.py'
    pair.write_text(pair.read_text().replace('teacher=dict(', f'teacher=dict(**{given!r}, '))


def test_a_given_teacher_is_tested_once_for_all_seeds(made, tmp_path, capsys):
    give(tmp_path)
    made('gkd')
    assert not capsys.readouterr().err  # its checkpoint is not there, so that one is trained
    with pytest.raises(SystemExit, match='mine.pth'):
        made('gkd', given=True)
    torch.save({}, tmp_path / 'mine.pth')
    torch.save({}, tmp_path / 'another.pth')
    plan = made('gkd', f'gkd:model.teacher.checkpoint={tmp_path}/another.pth', given=True)
    other = next(name for name, _ in plan.trainings if name.startswith('gkd:'))
    assert {name for name, _ in plan.trainings} == {'teacher', 'alone', 'inherit', 'gkd', other}
    test = plan.trainings['teacher', 0]
    assert plan.trainings['teacher', 1] is test is plan.tests['teacher', 0] and plan.all().count(test) == 1
    assert plan.trainings['gkd', 1].needs == [] and not test.trains
    assert plan.teachers['gkd', 1] == 'teacher' != plan.teachers[other, 1]  # which has no row, and so no gap
    cfg = compare_teachers.given_teacher(Config.fromfile(test.command[2]))
    assert cfg.model.backbone.base_channels == 32 and cfg.test_dataloader == cfg.val_dataloader
    torch.save(dict(more=1), tmp_path / 'mine.pth')
    assert made('gkd', given=True).identities['teacher', 0] != plan.identities['teacher', 0]


def test_what_a_log_knows_of_a_given_teacher_is_not_measured_again(made, tmp_path):
    give(tmp_path)
    torch.save({}, tmp_path / 'mine.pth')
    first = made('gkd', given=True)
    log = [run_of(*key, 10., identity=first.identities[key], folder='') for key in first.trainings]
    plan = made('gkd', given=True, log=log)
    assert len(plan.known) == len(plan.trainings) == 8 and plan.all() == []
    results = compare_report.collect(plan)
    console = Console(quiet=True)
    compare_report.write(results, tmp_path / 'out', console)
    compare_html.write_html(results, plan, tmp_path / 'out', console)
    assert (tmp_path / 'out/report.html').read_text().count('<td class=short>teacher</td>') == 2  # result, training
    with pytest.raises(SystemExit, match="a row 'teacher' of seed 0 that was trained with another config, teacher"):
        made('gkd', log=log)


def test_a_given_teacher_that_cannot_be_scored_is_told(tmp_path, capsys):
    cfg = pair()
    cfg.model.teacher.checkpoint = str(tmp_path / 'mine.pth')
    torch.save(dict(meta=dict(dataset_meta=dict(classes=tuple('0123456798')))), tmp_path / 'mine.pth')
    assert compare_teachers.given_teacher(cfg) is None
    assert "classes in another order, '8' as number 10 of 10 instead of 9. It teaches" in capsys.readouterr().err
    torch.save({}, tmp_path / 'mine.pth')
    assert compare_teachers.given_teacher(cfg) is not None
    cfg.model.teacher.overrides = dict(roi_head=dict(bbox_head=dict(num_classes=80)))
    assert compare_teachers.given_teacher(cfg) is None
    assert 'gets no row: it knows 80 classes, its student 10. It teaches all the same' in capsys.readouterr().err
    cfg.model.teacher.config = 'mmdet::nowhere/x.py'
    assert compare_teachers.given_teacher(cfg) is None
    assert "gets no row: teacher: no config 'mmdet::nowhere/x.py'" in capsys.readouterr().err


class Evil:
    """Pickled, it makes a file wherever it is read."""
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_given_teacher_is_read_without_running_it(made, tmp_path):
    give(tmp_path)
    torch.save({}, tmp_path / 'mine.pth')
    test = made('gkd', given=True).trainings['teacher', 0]
    torch.save(dict(state_dict={}, meta=Evil(tmp_path / 'evil')), tmp_path / 'mine.pth')
    with pytest.raises(SystemExit, match='holds more than weights'):
        made('gkd', given=True)
    done = subprocess.run(test.command, cwd=test.place, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'holds more than weights' in done.stderr
    assert not (tmp_path / 'evil').exists()


def test_what_does_not_fit_is_said_before_anything_starts(made):
    with pytest.raises(SystemExit, match='there is no train_cfg.max_epochs'):
        made(str(ROOT / 'configs/_base_/small_faster_rcnn.py'))
    with pytest.raises(SystemExit, match='gkd:num_classes=4: train_dataloader: CocoDataset has 10 classes'):
        made('gkd:model.student.roi_head.bbox_head.num_classes=4')


def test_epochs_are_of_all_but_whole_configs_and_changes():
    whole = str(ROOT / 'configs/digits/student.py')
    found = compare_variants.variants(pair(), ['gkd', 'alone:train_cfg.max_epochs=7', whole], epochs=2)
    assert [cfg.train_cfg.max_epochs for cfg in found.values()] == [2, 2, 2, 7, 10]


def test_a_whole_config_is_trained_as_it_stands():
    path = ROOT / 'configs/digits/student.py'
    found = compare_variants.variants(pair(), [str(path)])
    assert found['student'].pretty_text == Config.fromfile(str(path)).pretty_text


def test_a_pairs_own_hooks_stay_and_a_methods_imports_come(tmp_path):
    (tmp_path / 'mine.py').write_text("custom_imports = dict(imports=['json'])\n"
                                      "distill_losses = dict(mine=dict(type='MyLoss'))\n")
    given = pair()
    given.custom_hooks = [dict(type='EMAHook'), *given.custom_hooks]
    found = compare_variants.variants(given, [str(tmp_path / 'mine.py'), 'hkd'])
    assert found['mine'].custom_imports.imports == ['mmgkd', 'json']
    assert [[hook['type'] for hook in cfg.custom_hooks] for cfg in found.values()] == [
        ['EMAHook'], ['EMAHook', 'DistillWeightHook'], ['EMAHook'], ['EMAHook', 'DistillWeightHook']]


def test_numbers_that_json_does_not_know():
    assert compare_report.finite_only([dict(a=(1., float('nan')), b='x', c=2)]) == [dict(a=[1., None], b='x', c=2)]


def test_unknown_methods_are_an_error_that_names_the_known_ones():
    with pytest.raises(SystemExit, match="no method 'nothing'.*gkd"):
        compare_variants.variants(pair(), ['gkd', 'nothing'])
    with pytest.raises(SystemExit, match='defines no distill_losses'):
        compare_variants.variants(pair(), [str(ROOT / 'configs/_base_/digits.py')])


def test_scores_that_are_not_compared_are_said_before_anything_starts():
    cfg = pair()
    cfg.val_evaluator = [dict(type='mmdet.LVISMetric')]
    with pytest.raises(SystemExit, match='val_evaluator must have one of CocoMetric, .*got mmdet.LVISMetric'):
        compare_plan.check('gkd', cfg, teacher_comes=True)


def test_pure_python_configs_give_types_as_classes(monkeypatch):
    cfg = pair()
    cfg.val_evaluator = dict(type=CocoMetric)
    cfg.custom_hooks = [dict(type=EMAHook), dict(type=DistillWeightHook), dict(type='mmgkd.PrepareLossesHook')]
    monkeypatch.setattr(compare_plan, 'check_training', lambda cfg: None)
    compare_plan.check('gkd', cfg, teacher_comes=True)
    assert [hook['type'] for hook in compare_variants.own_hooks(cfg)] == [EMAHook]


def test_inheritance_alone_is_of_pairs_that_inherit():
    plain = pair()
    plain.model.inherit = None
    with pytest.raises(SystemExit, match='this pair inherits nothing'):
        compare_variants.variants(plain, ['inherit'])


def test_a_config_of_ones_own_is_a_method():
    found = compare_variants.variants(pair(), [str(ROOT / 'configs/_base_/pkd.py')])
    assert list(found['pkd'].model.distill_losses) == ['pkd']


def test_data_that_are_not_there_are_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="no 'data/digits/annotations/train.json'"):
        compare.main([str(PAIR), '--work-dir', str(tmp_path / 'out')])
    with pytest.raises(SystemExit):
        compare.parse_args(['nowhere.py'])


def run_of(name, seed, score, seconds=1., **more):
    run = dict(name=name, seed=seed, metric='mAP', score=score, seconds=seconds, peak=100., terms={}, finite=True,
               teacher='teacher', curve={1: score / 2, 2: score}, identity=f'{name} {seed}', commit='c', scalars=[],
               digest='d', taught_by=None, machine='here')
    return run | more


def test_gains_are_paired_over_seeds():
    rows = summary([run_of('alone', 0, 10.), run_of('alone', 1, 20.), run_of('x', 0, 13., 2.), run_of('x', 1, 21., 4.),
                    run_of('y', 1, 21.)])
    assert rows[1]['gains'] == [3., 1.] and rows[1]['time'] == 3. and rows[0]['gains'] == []
    assert rows[2]['gains'] == [1.] and cells(rows[1])[1:3] == ('17.0 ± 5.7', '+2.0 [-10.7, +14.7]')


def test_times_of_two_machines_are_not_compared():
    runs = [run_of('alone', 0, 10., machine='a'), run_of('alone', 1, 10., machine='a'),
            run_of('x', 0, 10., 2., machine='a'), run_of('x', 1, 10., 4., machine='b'),
            run_of('y', 0, 10., 4., machine='b'), run_of('z', 0, 10., 4., machine=None)]
    assert [row['time'] for row in summary(runs)] == [1., 2., None, None]
    assert [row['time'] for row in summary([run | dict(machine=None) for run in runs])] == [None] * 4


def test_a_column_of_nothing_is_left_out():
    runs = [run_of('alone', 0, 10.), run_of('x', 0, 13., 2.)]
    table = compare_report.grid(runs, summary(runs))
    assert table[0] == ('', 'mAP', 'to alone', 'time', 'peak MB')  # no teacher, and no terms of its own
    assert table[2] == ('x', '13.0', '+3.0', '2.00', '100')
    runs[1]['terms'] = dict(x_a=(2., 1.))
    assert compare_report.grid(runs, summary(runs))[0][3] == 'own terms: without → with it'


def test_the_interval_is_that_of_scipy():
    values = [1., 2.5, 3., 7.]
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(.95)
    assert compare_report.interval(values) == pytest.approx((expected.low, expected.high))
    assert compare_report.interval([1.]) is None


def test_the_share_of_the_gap_is_of_the_seeds_that_have_a_teacher():
    rows = {row['name']: row for row in summary([
        run_of('teacher', 0, 20.), run_of('alone', 0, 10.), run_of('alone', 1, 10.), run_of('x', 0, 17.),
        run_of('x', 1, 40.)])}
    assert rows['x']['share'] == pytest.approx(.7) and cells(rows['x'])[3] == '70 %'
    assert rows['alone']['share'] is None and rows['teacher']['gains'] == []
    worse = summary([run_of('teacher', 0, 9.), run_of('alone', 0, 10.), run_of('x', 0, 17.)])
    assert worse[-1]['share'] is None  # of a teacher that knows less there is no gap
    assert compare_report.share([(.5, .6)]) is None and compare_report.share([(1., 2.), (0., 2.)]) == .25


def test_what_diverged_is_called_so():
    bad = run_of('x', 0, 0., finite=False)
    assert [cells(row)[0] for row in summary([run_of('alone', 0, 10.), bad])] == ['alone', 'x (diverged)']


def test_a_method_that_did_nothing_to_its_own_terms_is_called_so():
    runs = [run_of('x', 0, 1., terms=dict(x_a=(1., .5), x_b=(1., 2.))), run_of('y', 0, 1., terms=dict(y_a=(1., 1.)))]
    first, second = [cells(row) for row in summary(runs)]
    assert first[0] == 'x' and first[4] == 'a 1 → 0.5, b 1 → 2'
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
    assert {row['machine'] for row in results.values()} == {machine()}
    stored = (tmp_path / 'out/seed0').glob('kd-*/own_terms/terms.json')
    assert json.loads(next(stored).read_text()) == results['kd']['terms']
    assert set(results['rkd']['terms']) == {'rkd_distance', 'rkd_angle'}
    assert all(value > 0 for pair in results['rkd']['terms'].values() for value in pair)
    text = (tmp_path / 'out/results.md').read_text()
    assert '| kd | ' in text and 'divergence' not in text and 'kl ' in text
    assert (tmp_path / 'out/results.png').read_bytes().startswith(b'\x89PNG')
    page = (tmp_path / 'out/report.html').read_text()
    checkpoint = next((tmp_path / 'out/seed0').glob('kd-*/epoch_1.pth'))
    for said in ('<h2>Results</h2>', torch.__version__, hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
                 str(checkpoint.parent / 'config.py'), 'data:image/png;base64,'):
        assert said in page
    assert 'src="http' not in page and 'href=' not in page  # nothing from elsewhere
    assert '<h2>Detections</h2>' not in page  # a classifier finds none
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*.pth')}
    compare_with_given_teacher(tmp_path, results, capsys)
    log = ['--log', str(tmp_path / 'log.json.gz')]
    compare.main(command + log)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / 'out').rglob('*.pth')}
    capsys.readouterr()
    compare.main(command[:-4] + ['--work-dir', str(tmp_path / 'elsewhere'), *log])
    assert '4 trainings, 4 of them in the log' in capsys.readouterr().out
    assert not list((tmp_path / 'elsewhere').rglob('*.pth'))  # where the log is, nothing is trained
    again = {row['name']: row for row in json.loads((tmp_path / 'elsewhere/results.json').read_text())}
    assert all(again[name]['score'] == row['score'] and again[name]['terms'] == {
        term: list(values) for term, values in row['terms'].items()} for name, row in results.items())
    assert '<td>from the log' in (tmp_path / 'elsewhere/report.html').read_text()


def compare_with_given_teacher(folder, trained, capsys):
    """A checkpoint that is there teaches if one says so, and is scored as it was after its training."""
    checkpoint = next((folder / 'out/seed0').glob('teacher-*/epoch_1.pth'))
    (folder / 'given.py').write_text(f"_base_ = ['gkd.py']\nmodel = dict(teacher=dict(checkpoint={str(checkpoint)!r}))")
    command = [str(folder / 'given.py'), '--methods', 'alone', '--work-dir', str(folder / 'out')]
    capsys.readouterr()
    compare.main(command)
    assert f'to teach with {checkpoint}, which the pair names, give --given-teacher' in capsys.readouterr().err
    compare.main([*command, '--given-teacher'])
    assert 'a teacher is trained' not in capsys.readouterr().err
    rows = {row['name']: row for row in json.loads((folder / 'out/results.json').read_text())}
    assert set(rows) == {'teacher', 'alone'}
    assert rows['teacher']['score'] == pytest.approx(trained['teacher']['score'])
    assert not rows['teacher']['curve'] and rows['teacher']['folder'] != trained['teacher']['folder']
    assert rows['alone']['score'] == trained['alone']['score']  # trained once
    assert '| teacher | ' in (folder / 'out/results.md').read_text()


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


def test_own_terms_of_a_model_that_reads_the_iteration():
    """YOLOX's preprocessor changes the size of a batch by it, in no runner as in one."""
    student = model_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py')
    MessageHub.get_current_instance().runtime_info.pop('iter', None)
    model = MODELS.build(Config(dict(model=dict(
        type='Distiller', student=student, teacher=dict(config=student, checkpoint=None, allow_random=True),
        distill_losses=dict(pkd=dict(type='PKDLoss'))))).model)
    model.init_weights()
    assert own_terms.mean_terms(model, [raw_batch(((96, 96), (96, 96)))])['pkd_correlation'] > 0


def test_a_failure_spares_what_does_not_need_it(tmp_path):
    bad = job(tmp_path, 'bad', 'raise SystemExit(3)')
    jobs = [bad, job(tmp_path, 'after', needs=[bad]), job(tmp_path, 'good')]
    seen = []
    failures = run_jobs(jobs, 1, 1, lambda jobs: None, pause=.02, go_on=True,
                        after=lambda: seen.append([job.name for job in jobs if job.is_done()]))
    assert len(failures) == 1 and 'bad failed with exit code 3' in failures[0]
    assert order(tmp_path) == ['good']
    assert seen == [['good']]  # what has been done can be kept before the rest has
    with pytest.raises(JobFailed, match='bad failed'):
        run_jobs(jobs, 1, 1, lambda jobs: None, pause=.02)


def test_what_was_done_before_does_not_end_the_others(tmp_path):
    bad = job(tmp_path, 'bad', 'raise SystemExit(3)')
    measured = job(tmp_path, 'measured')
    run_jobs([measured], 1, 1, lambda jobs: None, pause=.02)
    measured.needs = [bad]  # as when a checkpoint was deleted after it had been tested
    slow = job(tmp_path, 'slow', 'import time; time.sleep(.5)')
    failures = run_jobs([bad, measured, slow], 2, 1, lambda jobs: None, pause=.02, go_on=True)
    assert len(failures) == 1 and slow.is_done()


def test_paths_are_those_from_where_one_is(tmp_path, digits, monkeypatch):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits)
    monkeypatch.chdir(tmp_path)
    jobs = compare_plan.plan(pair(), ['gkd'], [0], tmp_path / 'out')
    job = jobs.trainings['alone', 0]
    assert job.place == tmp_path and Path(job.command[1]) == ROOT / 'tools/train.py'
    assert job.steps == job_epochs(job) * 2  # of 8 images
    monkeypatch.chdir(ROOT)
    assert compare_plan.tool('train.py') == 'tools/train.py'


def job_epochs(job):
    return int(job.product.stem.removeprefix('epoch_'))


def test_memory_is_measured(tmp_path):
    jobs = [job(tmp_path, 'big', 'import time; x = bytearray(2 ** 27); time.sleep(.5)', steps=1)]
    run_jobs(jobs, 1, 1, lambda jobs: None, pause=.05)
    assert 128 < json.loads((tmp_path / 'big/done.json').read_text())['peak'] < 400


def test_a_row_that_lacks_a_seed_says_so():
    rows = summary([run_of('alone', 0, 1.), run_of('alone', 1, 1.), run_of('x', 1, 2.)])
    assert [cells(row)[0] for row in rows] == ['alone', 'x (1 seed(s) missing)']


def test_the_gap_is_to_ones_own_teacher():
    rows = summary([run_of('teacher', 0, 20.), run_of('teacher of x', 0, 30.), run_of('alone', 0, 10.),
                    run_of('x', 0, 20., teacher='teacher of x')])
    assert rows[-1]['share'] == pytest.approx(.5) and rows[1]['gains'] == []


def test_the_score_is_that_of_the_last_epoch(tmp_path):
    """COCO logs nothing of a detector that finds nothing."""
    folder = tmp_path / '2026/vis_data'
    folder.mkdir(parents=True)
    lines = [dict(step=1, loss=1., time=1.), {'step': 1, 'coco/bbox_mAP': .3}, {'step': 2, 'coco/bbox_mAP': -1.}]
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    done = Job('x', 'x', tmp_path, [], tmp_path / 'epoch_3.pth', '', steps=3)
    measured = compare_report.measure('x', 0, done)
    assert measured['score'] == 0 and measured['curve'] == {1: 30., 2: 0.} and measured['metric'] == 'mAP'


def test_curves_have_a_band_over_seeds():
    curves = [{1: 1., 2: 4.}, {1: 3., 2: 4., 3: 9.}]
    assert compare_figure.band(curves) == {1: (2., pytest.approx(2 ** .5)), 2: (4., 0.)}


def test_of_many_rows_the_best_have_curves():
    rows = summary([run_of(name, 0, float(i)) for i, name in enumerate(['teacher', 'alone', 'gkd', *'abcdefghij'])])
    names = [row['name'] for row in compare_figure.with_curves(rows)]
    assert names == ['teacher', 'alone', 'gkd', 'j', 'i', 'h', 'g', 'f']
    colour = compare_figure.colouring(rows)
    assert len({colour[name] for name in names}) == 8 and {colour[name] for name in 'abcde'} == {'#8C8C8C'}
    rows = summary([run_of(name, 0, 9. - i) for i, name in enumerate([*'abcdefghij', 'alone:max_epochs=20'])])
    assert 'alone:max_epochs=20' in [row['name'] for row in compare_figure.with_curves(rows)]
    rows = summary([run_of(name, 0, float(i)) for i, name in enumerate([*(f'alone:{i}' for i in range(9)), *'ab'])])
    names = [row['name'] for row in compare_figure.with_curves(rows)]
    assert names[:3] == ['alone:8', 'b', 'a']  # one variant of the references in any case, then the best


def test_names_at_one_height_are_moved_apart_within_the_axes():
    places = apart([96., 97., 97., 97., 97., 98., 98., 99.], 7.5, 20., 100.)
    assert all(b - a > 7.499 for a, b in itertools.pairwise(places)) and 20 <= places[0] and places[-1] <= 100
    assert apart([10., 50.], 7.5, 0., 100.) == [10., 50.] and apart([0., 0.], 2.) == [-1., 1.]


def test_long_names_are_broken_at_their_colons():
    assert compare_figure.wrapped('gkd:attention=None') == 'gkd:attention=None'
    long = 'gkd:edge_weight=0.:spectral_weight=0.:' + 'x' * 40
    lines = compare_figure.wrapped(long).split('\n')
    assert len(lines) > 1 and 1.2 * compare_figure.size(long) * len(lines) < 72 * compare_figure.ROW
    assert lines == ['gkd:edge_weight=0.:', 'spectral_weight=0.:', 'x' * 40] and ''.join(lines) == long


def height(path):
    return mmcv.imread(str(path)).shape[0]


def test_cost_counts_time_and_iterations(tmp_path):
    """Ten times as many epochs of a tenth of the images are as long."""
    def steps(count):
        return dict(scalars=[dict(loss=1., step=1), dict(loss=1., step=count), {'step': 999, 'coco/bbox_mAP': 0.}])
    rows = summary([run_of('alone', 0, 1., **steps(8)), run_of('twice', 0, 2., **steps(16)),
                    run_of('x', 0, 2., 1.5, curve={10: 1., 20: 2.}, **steps(8)),
                    run_of('y', 0, 2., math.nan, **steps(8)), run_of('z', 0, 2., curve={})])
    assert [row['cost'] for row in rows[:3]] == [1., 2., 1.5] and not any(math.isfinite(r['cost']) for r in rows[3:])
    compare_figure.draw(rows, 'mAP', tmp_path / 'x.png')
    assert (tmp_path / 'x.png').stat().st_size > 5000
    compare_figure.draw([row | dict(cost=None) for row in rows], 'mAP', tmp_path / 'untimed.png')
    assert height(tmp_path / 'untimed.png') < .7 * height(tmp_path / 'x.png')  # without a panel of nothing


def test_detections_are_shown_side_by_side(digits, tmp_path):
    """Of a perfect detector every box is right, and one that finds nothing misses all."""
    cfg = run_config(digits, tmp_path, {})
    init_default_scope('mmdet')
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    for name, found in (('good', infos), ('bad', [dict(info, instances=[]) for info in infos])):
        samples = []
        for info in found:
            boxes = compare_examples.true_boxes(info)
            samples.append(dict(img_id=info['img_id'], pred_instances=dict(
                bboxes=torch.tensor(boxes.boxes), labels=torch.tensor(boxes.labels), scores=torch.ones(len(boxes[1])))))
        (tmp_path / f'{name}.pkl').write_bytes(pickle.dumps(samples))
    rows = compare_examples.panels(cfg, {name: str(tmp_path / f'{name}.pkl') for name in ('good', 'bad')})
    assert 1 <= len(rows) <= 4
    for truth, good, bad in rows:
        count = int(truth.caption.split()[0])
        assert good.caption == f'{count} of {count} found, 0 wrong' and bad.caption == f'0 of {count} found, 0 wrong'
        assert truth.image.startswith('data:image/jpeg;base64,')


def test_short_names_tell_classes_apart():
    assert compare_examples.short_names(['RBC', 'WBC', 'Platelets']) == ['R', 'W', 'P']
    assert compare_examples.short_names(['mouse', 'mousebite']) == ['mous', 'mous']
    assert compare_examples.short_names(['open', 'over']) == ['op', 'ov']


def test_a_training_is_known_by_its_config_alone(made, tmp_path):
    first, moved = made('gkd'), made('gkd:model.distill_losses.gkd.edge_weight=0.')
    assert first.identities['alone', 0] == moved.identities['alone', 0] != first.identities['alone', 1]
    assert first.identities['inherit', 0] == moved.identities['inherit', 0]  # another method's numbers change nothing
    assert first.identities['gkd', 0] != moved.identities['gkd:edge_weight=0.', 0]
    one, other = (pair(), pair())
    other.model.teacher.checkpoint = 'b.pth'
    identity = compare_identity.identity
    assert identity(one) != identity(other) and identity(one, 'x') == identity(other, 'x') != identity(one, 'y')
    one.work_dir = 'elsewhere'
    assert identity(one, 'x') == identity(other, 'x')
    one.some = {1: 'int', 'a': ROOT / 'x'}  # whatever a config may hold
    assert identity(one, 'x') != identity(other, 'x')


def test_a_folder_that_was_moved_trains_where_it_is(made, tmp_path):
    first = made('gkd').trainings['gkd', 0]
    (tmp_path / 'out').rename(tmp_path / 'moved')
    plan = compare_plan.plan(Config.fromfile(str(tmp_path / 'gkd.py')), ['gkd'], [0], tmp_path / 'moved')
    job = plan.trainings['gkd', 0]
    assert job.folder.name == first.folder.name and job.digest == first.digest
    cfg = Config.fromfile(str(job.folder / 'config.py'))
    assert cfg.work_dir == str(job.folder) and cfg.model.teacher.checkpoint == str(plan.trainings['teacher', 0].product)


def test_a_training_is_told_all_that_its_pair_says(made, tmp_path):
    plan = made('gkd')
    job, pair = plan.trainings['gkd', 1], Config.fromfile(str(tmp_path / 'gkd.py'))
    pair.model.teacher.checkpoint = str(plan.trainings['teacher', 1].product)
    expected = pair.to_dict() | dict(work_dir=str(job.folder), randomness=dict(seed=1))
    for name in ('distill_losses', 'distill_hooks'):  # they stand in the model and the hooks
        del expected[name]
    assert Config.fromfile(str(job.folder / 'config.py')).to_dict() == expected


def test_what_a_log_knows_is_run_only_for_others(made):
    """The teacher is, if a student of it is new."""
    plan = made('gkd', 'pkd')
    log = [run_of(name, seed, 1., identity=plan.identities[name, seed]) for name, seed in plan.trainings
           if name != 'pkd' or seed == 1]
    plan = made('gkd', 'pkd', log=log)
    assert len(plan.known) == 9
    assert [job.name for job in plan.all()] == ['seed 0 teacher', 'seed 0 pkd', 'seed 0 teacher, test',
                                                'seed 0 pkd, test']
    assert made('gkd', log=log).all() == []
    assert len(made('gkd').all()) == 14  # 8 trainings, 2 terms, 4 tests, and nothing is known


def test_a_log_is_added_to_and_never_lost(tmp_path):
    path = tmp_path / 'logs/x.json.gz'
    assert compare_log.read_log(path) == []
    compare_log.write_log(path, [run_of('x', 0, 2.), run_of(
        'alone', 0, 1., folder='/here', seconds=math.nan, terms=dict(a=(1., math.nan)))])
    first = path.read_bytes()
    compare_log.write_log(path, [])
    assert path.read_bytes() == first  # the same bytes for the same content
    compare_log.write_log(path, [run_of('x', 0, 3.), run_of('y', 0, 4.)])
    x, alone, y = compare_log.read_log(path)
    assert [row['score'] for row in (alone, x, y)] == [1., 3., 4.] and x['curve'] == {1: 1.5, 2: 3.}
    assert math.isnan(alone['seconds']) and math.isnan(alone['terms']['a'][1])
    assert summary([alone, x, y])[0]['terms']['a'][0] == 1.  # what diverged can be read again
    assert b'/here' not in gzip.decompress(path.read_bytes())
    whole = path.read_bytes()
    foreign = gzip.compress(b'[{"name": "x", "seed": 0}]')
    for wrong in (b'something else', whole[:-20] + whole[-12:], whole[:40], foreign):
        path.write_bytes(wrong)
        with pytest.raises(SystemExit, match='no log of a comparison'):
            compare_log.write_log(path, [])
        assert path.read_bytes() == wrong
    with pytest.raises(SystemExit, match='cannot be written'):
        compare_log.write_log(Path('/proc/x.json.gz'), [])
    path.write_bytes(whole)
    with pytest.raises(SystemExit, match="a row 'x' of seed 0 that was trained with another config"):
        compare_log.write_log(path, [run_of('x', 0, 5., identity='written meanwhile, of another pair')])
    assert path.read_bytes() == whole


def test_comparisons_that_write_one_log_lose_nothing(tmp_path):
    path, lines = tmp_path / 'x.json.gz', ['from compare_log import write_log', 'from pathlib import Path']
    lines += [f'entry = {run_of("NAME", 0, 1.)!r}', 'import sys', 'for seed in range(20):',
              '    write_log(Path(sys.argv[1]), [entry | dict(name=sys.argv[2], seed=seed)])']
    writers = [subprocess.Popen([sys.executable, '-c', '\n'.join(lines), str(path), name], cwd=ROOT / 'tools')
               for name in 'abcd']
    assert [writer.wait() for writer in writers] == [0] * 4
    assert len(compare_log.read_log(path)) == 80 and [x.name for x in tmp_path.iterdir()] == ['x.json.gz']


def test_what_a_comparison_knows_from_a_log_is_not_written_back(made, tmp_path):
    """Another one may have measured more of it in the meantime."""
    path = tmp_path / 'x.json.gz'
    jobs = made('gkd')
    entries = [run_of(name, seed, 1., identity=identity, digest=job.digest)
               for (name, seed), identity in jobs.identities.items() for job in [jobs.trainings[name, seed]]]
    compare_log.write_log(path, entries)
    jobs = made('gkd', log=compare_log.read_log(path))
    compare_log.write_log(path, [entries[0] | dict(score=2.)])
    compare.record(jobs, path)
    assert compare_log.read_log(path)[0]['score'] == 2.
    path.write_bytes(b'damaged')
    compare.keep(jobs, path)  # a training that is running is not stopped
    with pytest.raises(SystemExit, match='no log of a comparison'):
        compare.record(jobs, path)


def test_a_name_means_one_training_in_a_log(made):
    identities = made('gkd').identities
    log = [run_of('gkd', 0, 1., identity=identities['gkd', 0]), run_of('other', 0, 1., identity='x')]
    compare_log.check_names(log, identities)
    with pytest.raises(SystemExit, match="a row 'gkd' of seed 0 that was trained with another config"):
        made('gkd', epochs=1, log=log)
    other = [run_of('alone', 7, 1., identity='of another pair, and of a seed that is not asked for')]
    with pytest.raises(SystemExit, match="a row 'alone' of seed 7 that was trained with another config"):
        made('gkd', log=other)
    assert ('gkd', 7) not in made('gkd', log=[other[0] | dict(name='x')]).trainings


def test_two_names_of_one_training_are_one_job(made):
    plan = made('gkd', 'gkd:weights*=1')
    assert plan.trainings['gkd', 0] is plan.trainings['gkd:weights*=1', 0] is not plan.trainings['gkd', 1]
    assert len(plan.all()) == len(made('gkd').all())
    log = [run_of('gkd', 0, 1., identity=plan.identities['gkd', 0], teacher='teacher of x')]
    known = made('gkd:weights*=1', log=log)
    assert known.known['gkd:weights*=1', 0]['score'] == 1. and known.known['gkd:weights*=1', 0]['teacher'] == 'teacher'
    assert compare_report.doubts(known)[0].startswith('gkd:weights*=1 of seed 0 is gkd in the log')


def test_what_a_log_cannot_vouch_for_is_said(made, monkeypatch):
    plan = made('gkd')
    digest = plan.trainings['teacher', 0].digest
    plan.known['teacher', 0] = run_of('teacher', 0, 30., digest=digest)
    monkeypatch.setattr(Job, 'is_done', lambda job: job.name == 'seed 0 teacher')
    for score, says in ((30., []), (29., ['Trained again, teacher of seed 0 scores 29.0, and 30.0 in the log'])):
        run = run_of('teacher', 0, score, digest=digest)
        monkeypatch.setattr(compare_report, 'measure', lambda *_, run=run: run)
        assert [text.partition(':')[0] for text in compare_report.doubts(plan)] == says
        assert compare_report.collect(plan)[0]['score'] == 30.  # what the log measured stays
    plan.known['teacher', 0]['digest'] = 'of other code'
    assert compare_report.doubts(plan)[0].startswith('1 of 1 trainings of the log ran with other code of mmgkd')
    assert compare_report.collect(plan)[0]['score'] == 29.  # what this code measured here is newer


def test_a_student_of_another_teacher_is_marked():
    runs = [run_of('teacher', 0, 20.), run_of('alone', 0, 10.), run_of('x', 0, 12., taught_by=20.),
            run_of('y', 0, 12., taught_by=19.)]
    assert [cells(row)[0] for row in summary(runs)][2:] == ['x', 'y (another teacher)']


def test_losses_are_thinned_and_validations_kept():
    lines = [dict(step=i, loss=1 / 3, time=1.) for i in range(1, 301)]
    lines[10:10] = [{'step': 1, 'coco/bbox_mAP': .123456}]
    thin = compare_log.thin(lines)
    assert len(thin) == 31 and thin[29] == dict(step=300, loss=.3333) and thin[-1]['coco/bbox_mAP'] == .1235
    assert compare_log.thin([]) == [] and len(compare_log.thin(lines[:3])) == 3


def test_a_teacher_is_shown_beside_its_students():
    runs = [run_of('teacher', 0, 20.), run_of('alone', 0, 10.), run_of('x', 0, 15.),
            run_of('y', 0, 15., teacher='teacher of y'), run_of('teacher of y', 0, 12.)]
    names = [[entry['name'] for entry in compare_pairs.chosen(runs, [0], [method])] for method in 'xy']
    assert names == [['teacher', 'alone', 'x'], ['teacher', 'alone', 'y', 'teacher of y']]


def test_methods_over_several_pairs(tmp_path, capsys):
    paths = [str(tmp_path / f'{pair}.json.gz') for pair in 'ab']
    for path, gains in zip(paths, (dict(x=5., y=10.), dict(x=7., z=-1.)), strict=True):
        rows = [run_of('teacher', 0, 20.), run_of('alone', 0, 10.)]
        compare_log.write_log(Path(path), rows + [run_of(name, 0, 10. + gain) for name, gain in gains.items()]
                              + [run_of('x', 7, 99.)])
    compare_pairs.main([*paths, '--seeds', '0', '--out', str(tmp_path)])
    text = capsys.readouterr().out
    assert '| x | 50 % | 70 % | 60 % | +5.0 (a) |' in text
    assert 'least gain over alone' in text and 'peak MB' not in text  # of trainings beside whatever else
    assert '| y | 100 % |  | 100 % of 1 | +10.0 (a) |' in text and '| z |  | -10 % | -10 % of 1 | -1.0 (b) |' in text
    assert text.index('| x | 50') < text.index('| y | 100') and '## b' in text
    assert (tmp_path / 'pairs.md').read_text() == text.rstrip('\n') + '\n'
    assert (tmp_path / 'pairs.png').read_bytes().startswith(b'\x89PNG')
    compare_pairs.main([*paths, '--seeds', '0', '--methods', 'y', '--to', 'x'])
    text = capsys.readouterr().out
    assert '|  | mAP | to x |' in text and '"To x": ' in text and '| y | 20.0 | +5.0 | 100 % |' in text
    assert '| alone | 10.0 | -5.0 |' in text and '| alone | 10.0 | -7.0 |' in text  # of both pairs
    assert '| x | 15.0 |  | 50 % |' in text and '| y | 100 % |  | 100 % of 1 | +5.0 (a) |' in text
    assert '| x | 50 % | 70 % | 60 % |  |' in text
    compare_pairs.main([*paths, '--seeds', '0', '--to', 'alone', 'x'])
    text = capsys.readouterr().out
    assert '|  | mAP | to alone | to x | of the gap |' in text and '"To alone" or "to x": ' in text
    assert text.index('| teacher |') < text.index('| alone |') < text.index('| y | 20') < text.index('| x | 15')
    assert '| alone | 10.0 |  | -5.0 |  |' in text and '| y | 20.0 | +10.0 | +5.0 | 100 % |' in text
    with pytest.raises(SystemExit, match='nothing is left of a, b'):
        compare_pairs.main([*paths, '--seeds', '5'])
    with pytest.raises(SystemExit, match='no log has q'):
        compare_pairs.main([*paths, '--to', 'q'])
    with pytest.raises(SystemExit, match='no log has y of these seeds'):
        compare_pairs.main([*paths, '--seeds', '7', '--to', 'y'])
    with pytest.raises(SystemExit):
        compare_pairs.main([str(tmp_path / 'none.json.gz')])
    with pytest.raises(SystemExit, match='no log has q'):
        compare_pairs.main([*paths, '--methods', 'q'])
    with pytest.raises(SystemExit):
        compare_pairs.main([paths[0], paths[0]])
