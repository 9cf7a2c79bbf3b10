"""Every classification config that is shipped builds, fits its data and trains a step; pairs find their teachers."""
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.config import Config

from mmgkd.classification import ClsDataSample
from mmgkd.preflight import check_training

FOLDERS = ('cifar10', 'cifar100', 'digits_cls')
CONFIGS = sorted(p.relative_to(ROOT).as_posix() for folder in FOLDERS for p in (ROOT / 'configs' / folder).glob('*.py'))
PAIRS = [path for path in CONFIGS if '_' in Path(path).stem or Path(path).stem == 'gkd']
METHODS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'configs/_base_/classification').glob('*.py'))
SCHEDULES = {  # epochs, batch, rate, milestones, factor
    'resnet32x4': (240, 64, 0.05, [150, 180, 210], 0.1), 'resnet8x4': (240, 64, 0.05, [150, 180, 210], 0.1),
    'vgg13': (240, 64, 0.05, [150, 180, 210], 0.1), 'mobilenetv2': (240, 64, 0.01, [150, 180, 210], 0.1),
    'shufflenetv2': (240, 64, 0.01, [150, 180, 210], 0.1), 'wrn-22-4': (100, 128, 0.1, [30, 60, 80], 0.1),
    'wrn-10-4': (100, 128, 0.1, [30, 60, 80], 0.1), 'wrn-28-1': (200, 128, 0.1, [60, 120, 160], 0.2),
    'wrn-28-half': (200, 128, 0.1, [60, 120, 160], 0.2)}


SHALLOW = {'mmgkd.CifarResNet': 8, 'mmgkd.WideResNet': 10, 'mmgkd.CifarVGG': 8}


def load(path):
    """A config whose teacher, if it has one, is random and shallow: of the same maps, and sooner there."""
    cfg = Config.fromfile(ROOT / path)
    if cfg.model.type == 'Distiller':
        kind = Config.fromfile(cfg.model.teacher.config).model.backbone.type
        cfg.model.teacher.update(
            checkpoint=None, allow_random=True, overrides=dict(backbone=dict(depth=SHALLOW[kind])))
    return cfg


def batch(count=2, side=32, classes=10):
    return dict(inputs=[torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for _ in range(count)],
                data_samples=[ClsDataSample(metainfo=dict(sample_idx=i), gt_label=torch.tensor([i % classes]))
                              for i in range(count)])


def test_the_folders_hold_what_is_promised():
    assert {f'configs/cifar100/{name}.py' for name in SCHEDULES} <= set(CONFIGS)
    assert {f'configs/cifar100/{name}.py' for name in (
        'resnet32x4_resnet8x4', 'resnet32x4_shufflenetv2', 'vgg13_mobilenetv2', 'wrn-22-4_wrn-10-4',
        'wrn-28-1_wrn-28-half')} | {'configs/digits_cls/gkd.py'} <= set(PAIRS)


@pytest.mark.parametrize('path', CONFIGS)
def test_every_config_trains_a_step(path):
    cfg = load(path)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    data = model.data_preprocessor(batch(), True)
    loss, logged = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss) and 'loss_cls' in logged
    assert ('loss_gkd_vertex' in logged) == (path in PAIRS)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize('path', CONFIGS)
def test_data_metric_and_classes_fit(path):
    cfg = load(path)
    classes = cfg.model.get('student', cfg.model).head.num_classes
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        dataset = DATASETS.build(dict(loader.dataset, lazy_init=True))
        assert len(dataset.metainfo['classes']) == classes
        assert loader.dataset.split == ('train' if loader is cfg.train_dataloader else 'test')
    assert METRICS.build(cfg.val_evaluator).topk == (1, 5)


@pytest.mark.parametrize('path', [path for path in CONFIGS if 'cifar' in path])
def test_schedules_are_the_published_ones(path):
    cfg = load(path)
    epochs, size, rate, milestones, factor = SCHEDULES[Path(path).stem.rpartition('_')[2]]
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (epochs, size)
    assert cfg.auto_scale_lr.base_batch_size == size
    assert {k: v for k, v in cfg.optim_wrapper.optimizer.items() if k != 'nesterov'} == dict(
        type='SGD', lr=rate, momentum=0.9, weight_decay=5e-4)
    assert (cfg.param_scheduler.milestones, cfg.param_scheduler.gamma) == (milestones, factor)


@pytest.mark.parametrize('path', PAIRS)
def test_a_pair_finds_its_teacher_and_changes_nothing_of_its_student(path):
    cfg, raw = Config.fromfile(ROOT / path), (ROOT / path).read_text()
    teacher = Config.fromfile(cfg.model.teacher.config)
    assert cfg.model.teacher.checkpoint == f'{teacher.work_dir}/epoch_{teacher.train_cfg.max_epochs}.pth'
    student = Config.fromfile((ROOT / path).parent / raw.partition("_base_ = ['./")[2].partition("'")[0])
    assert cfg.model.student == student.model
    for key in ('train_dataloader', 'val_dataloader', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert cfg[key] == student[key] == teacher[key] or key == 'optim_wrapper'


@pytest.mark.parametrize('pair', ['cifar100/vgg13_mobilenetv2', 'digits_cls/gkd'])
@pytest.mark.parametrize('path', METHODS)
def test_a_method_fits_a_pair_by_one_line(path, pair):
    """Also one whose stages agree neither in channels nor in size, and whose first maps are signed."""
    cfg, method = load(f'configs/{pair}.py'), Config.fromfile(ROOT / path)
    cfg.model.distill_losses = method.distill_losses
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    data = model.data_preprocessor(batch(6), True)
    if any(hook.type == 'PrepareLossesHook' for hook in method.distill_hooks):  # whole runs are in tests/losses
        with pytest.raises(RuntimeError, match='PrepareLossesHook'):
            model(**data, mode='loss')
        return
    loss, logged = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert any(name.startswith(f'loss_{next(iter(method.distill_losses))}_') for name in logged)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('path', METHODS)
def test_a_method_file_names_no_pair(path):
    cfg = Config.fromfile(ROOT / path)
    assert cfg.distill_losses and isinstance(cfg.distill_hooks, list)
    assert not {'model', 'train_dataloader', 'teacher', 'student'} & set(cfg.keys())


def test_the_digits_are_there_without_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_training(load('configs/digits_cls/student.py'))
