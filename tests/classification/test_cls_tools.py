"""tools/train.py and tools/test.py on classifiers, as a user runs them, and what comes of it."""
import json
import os
import pickle
import re
import runpy
import subprocess
import sys

import pytest
import torch
from cifar_files import write_cifar100
from conftest import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import Runner

from mmgkd.preflight import InputError, check_testing, check_training, is_classifier, read_config

DIGITS = ROOT / 'configs/digits_cls'
SHORT = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=2', 'param_scheduler.0.end=5']


def run(tool, *args, cwd, ok=True):
    env = dict(os.environ, PYTHONPATH=f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}', OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, ROOT / 'tools' / tool, *map(str, args)], cwd=cwd, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert (done.returncode == 0) == ok, done.stdout[-3000:]
    return done.stdout


def metrics(work_dir):
    """The last metrics that a run wrote."""
    lines = [json.loads(line) for path in sorted(work_dir.glob('*/*.json')) for line in path.read_text().splitlines()]
    return [line for line in lines if 'accuracy/top1' in line][-1]


def test_a_student_learns_the_digits_in_seconds(tmp_path):
    cfg = Config.fromfile(DIGITS / 'student.py')
    cfg.merge_from_dict(dict(
        work_dir=str(tmp_path), log_level='WARNING', randomness=dict(seed=0), default_scope='mmdet',
        train_cfg=dict(max_epochs=12, val_interval=12)))
    runner = Runner.from_cfg(cfg)
    runner.train()
    top1 = float(runner.message_hub.get_scalar('val/accuracy/top1').current())
    assert top1 > 30, 'chance is 10'
    found = metrics(next(tmp_path.glob('*/vis_data')).parent)
    assert found['accuracy/top1'] == pytest.approx(top1, abs=1e-3)
    assert 100 >= found['accuracy/top5'] > top1


@pytest.fixture(scope='module')
def distilled(tmp_path_factory):
    """A folder with a teacher and a student it taught, two epochs each."""
    folder = tmp_path_factory.mktemp('distilled')
    run('train.py', DIGITS / 'teacher.py', '--work-dir', 'teacher', '--cfg-options', *SHORT,
        'model.backbone.depth=8', cwd=folder)
    options = ['model.teacher.checkpoint=teacher/epoch_2.pth', 'model.teacher.overrides.backbone.depth=8']
    out = run('train.py', DIGITS / 'gkd.py', '--work-dir', 'gkd', '--cfg-options', *SHORT, *options, cwd=folder)
    return folder, out, options


def test_training_logs_task_and_distillation(distilled):
    folder, _, _ = distilled
    lines = next((folder / 'gkd').glob('*/vis_data/scalars.json')).read_text().splitlines()
    logged = json.loads(lines[0])
    assert {'loss_cls', 'loss_gkd_vertex', 'loss_gkd_edge', 'loss_gkd_spectral', 'gkd_vertex'} <= set(logged)
    assert logged['loss'] == pytest.approx(sum(v for k, v in logged.items() if k.startswith('loss_')), rel=1e-4)
    assert 'accuracy/top1' in json.loads(lines[-1])


def test_a_student_is_tested_without_its_teacher_in_either_config(distilled):
    folder, _, _ = distilled
    (folder / 'teacher').rename(folder / 'gone')
    try:
        found = {}
        for name in ('gkd', 'student'):
            out = run('test.py', DIGITS / f'{name}.py', 'gkd/epoch_2.pth', '--work-dir', f'test_{name}',
                      '--out', f'{name}.pkl', cwd=folder)
            assert 'missing keys' not in out
            found[name] = pickle.loads((folder / f'{name}.pkl').read_bytes())
    finally:
        (folder / 'gone').rename(folder / 'teacher')
    assert len(found['gkd']) == 997
    right = sum(int(sample['pred_label']) == int(sample['gt_label']) for sample in found['gkd'])
    assert metrics(folder / 'test_gkd')['accuracy/top1'] == pytest.approx(right / 9.97, abs=1e-3)
    for a, b in zip(found['gkd'], found['student'], strict=True):
        assert a['sample_idx'] == b['sample_idx'] and torch.equal(a['pred_score'], b['pred_score'])


def test_a_distilled_checkpoint_is_a_plain_classifiers(distilled):
    folder, _, _ = distilled
    state = torch.load(folder / 'gkd/epoch_2.pth', weights_only=False)['state_dict']
    plain = MODELS.build(Config.fromfile(DIGITS / 'student.py').model)
    result = plain.load_state_dict(state, strict=False)
    assert not result.missing_keys and all(k.startswith('connector.') for k in result.unexpected_keys)


def test_training_resumes(distilled):
    folder, _, options = distilled
    out = run('train.py', DIGITS / 'gkd.py', '--work-dir', 'gkd', '--resume', '--cfg-options', *SHORT[1:], *options,
              'train_cfg.max_epochs=3', cwd=folder)
    assert 'resumed epoch: 2' in out and (folder / 'gkd/epoch_3.pth').exists()


def test_cifar100_trains_and_tests_from_the_archive(tmp_path):
    write_cifar100(tmp_path / 'data/cifar100', packed=True)
    loaders = [f'{name}_dataloader.{option}' for name in ('train', 'val', 'test') for option in (
        'dataset.verify=False', 'num_workers=0', 'persistent_workers=False', 'batch_size=10')]
    small = ['--cfg-options', *loaders, 'train_cfg.max_epochs=1', 'model.backbone.width=0.25']
    config = ROOT / 'configs/cifar100/resnet8x4.py'
    run('train.py', config, '--work-dir', 'run', *small, cwd=tmp_path)
    run('test.py', config, 'run/epoch_1.pth', '--work-dir', 'tested', *small, cwd=tmp_path)
    assert set(metrics(tmp_path / 'tested')) >= {'accuracy/top1', 'accuracy/top5'}


@pytest.mark.parametrize(('tool', 'args', 'said'), [
    ('train.py', ['{configs}/cifar100/resnet8x4.py'],
     "train_dataloader: no 'data/cifar100/cifar-100-python.tar.gz', and no 'data/cifar100/cifar-100-python/train'"),
    ('test.py', ['{configs}/digits_cls/student.py', 'x.pth', '--tta'], '--tta merges the boxes of flipped images'),
    ('test.py', ['{configs}/digits_cls/gkd.py', 'x.pth', '--show-dir', 'x'], '--show and --show-dir draw boxes'),
])
def test_mistakes_are_one_clear_line(tool, args, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [tool, *[arg.format(configs=ROOT / 'configs') for arg in args]])
    with pytest.raises(SystemExit) as refusal:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    assert str(refusal.value.code).startswith(f'tools/{tool}: ') and said in refusal.value.code
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(('check', 'config', 'options', 'said'), [
    (check_training, 'cifar100/resnet32x4_resnet8x4', {}, 'download https://www.cs.toronto.edu/'),
    (check_testing, 'cifar100/resnet8x4', {}, "test_dataloader: no 'data/cifar100/"),
    (check_testing, 'cifar10/wrn-28-half', {}, "test_dataloader: no 'data/cifar10/"),
    (check_training, 'digits_cls/student', {'model.head.num_classes': 7},
     "mmgkd.DigitsImages has 10 classes (0, 1, 2, ...), but the model's model.head.num_classes is 7"),
    (check_training, 'digits_cls/gkd', {'model.student.head.num_classes': 7}, 'model.head.num_classes is 7'),
    (check_training, 'digits_cls/student', {'train_dataloader.dataset.split': 'val'},
     "split must be 'train' or 'test', got 'val'"),
    (check_training, 'digits_cls/gkd', {}, "teacher: no checkpoint 'work_dirs/digits_cls_teacher/epoch_30.pth'"),
    (check_testing, 'digits_cls/student', {'load_from': 'nowhere.pth'}, "checkpoint: no checkpoint 'nowhere.pth'"),
])
def test_what_does_not_fit_is_found_before_training(check, config, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = read_config(str(ROOT / f'configs/{config}.py'), options, None, 'none')
    with pytest.raises(InputError, match=re.escape(said)):
        check(cfg)


def test_classifiers_are_told_from_detectors():
    for config, classifies in (('digits_cls/student', True), ('digits_cls/gkd', True), ('digits/student', False),
                               ('digits/gkd', False)):
        assert is_classifier(Config.fromfile(ROOT / f'configs/{config}.py')) == classifies
