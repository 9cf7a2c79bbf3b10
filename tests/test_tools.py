"""tools/train.py and tools/test.py as a user runs them, on real files."""
import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, teacher_file
from mmengine.device import get_device
from standard_layouts import coco_layout, voc_layout

from mmgkd.detectors import model_config


def run(tool, *args, cwd, ok=True):
    env = dict(os.environ, PYTHONPATH=f'{ROOT}{os.pathsep}{os.environ.get("PYTHONPATH", "")}', OMP_NUM_THREADS='1')
    done = subprocess.run([sys.executable, ROOT / 'tools' / tool, *map(str, args)], cwd=cwd, env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
    assert (done.returncode == 0) == ok, done.stdout[-3000:]
    return done.stdout


def metrics(work_dir):
    """The last metrics that a test run wrote."""
    files = sorted(p for p in work_dir.glob('*/*.json') if p.stem == p.parent.name)
    return json.loads(files[-1].read_text())


def digits_options(digits, *more):
    loaders = [f'{loader}_dataloader.{key}' for loader in ('train', 'val', 'test')
               for key in (f'dataset.data_root={digits}/', 'num_workers=0', 'persistent_workers=False')]
    evaluators = [f'{name}_evaluator.ann_file={digits}/annotations/val.json' for name in ('val', 'test')]
    return ['--cfg-options', *loaders, *evaluators, *more]


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """A work folder after a distillation of one epoch, with its teacher's checkpoint."""
    folder = tmp_path_factory.mktemp('trained')
    teacher_file(folder / 'teacher.pth', model_config(str(ROOT / 'configs/digits/teacher.py')))
    out = run('train.py', ROOT / 'configs/digits/gkd.py', '--work-dir', folder / 'gkd', *digits_options(
        digits, 'model.teacher.checkpoint=teacher.pth', 'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1'), cwd=folder)
    return folder, out


def test_train_logs_task_and_distillation_losses(trained):
    folder, _ = trained
    scalars = next((folder / 'gkd').glob('*/vis_data/scalars.json')).read_text().splitlines()
    logged = json.loads(scalars[0])
    assert {'loss_cls', 'loss_bbox', 'loss_rpn_cls', 'loss_rpn_bbox', 'loss_gkd_vertex', 'loss_gkd_edge',
            'loss_gkd_spectral', 'gkd_vertex', 'gkd_edge', 'gkd_spectral'} <= set(logged)
    assert logged['loss'] == pytest.approx(sum(v for k, v in logged.items() if k.startswith('loss_')), rel=1e-4)


def test_a_student_is_tested_without_its_teacher_in_either_config(trained, digits):
    folder, _ = trained
    (folder / 'teacher.pth').rename(folder / 'gone.pth')
    try:
        found = {}
        for name in ('gkd', 'student'):
            out = run('test.py', ROOT / f'configs/digits/{name}.py', folder / 'gkd/epoch_1.pth', '--work-dir',
                      folder / f'test_{name}', '--out', folder / f'{name}.pkl', *digits_options(digits), cwd=folder)
            assert 'missing keys' not in out and 'unexpected key' not in out
            found[name] = pickle.loads((folder / f'{name}.pkl').read_bytes())
            assert 'coco/bbox_mAP' in metrics(folder / f'test_{name}')
    finally:
        (folder / 'gone.pth').rename(folder / 'teacher.pth')
    for a, b in zip(found['gkd'], found['student'], strict=True):
        assert torch.equal(a['pred_instances']['scores'], b['pred_instances']['scores'])


def test_the_teacher_is_tested_with_its_own_config(trained, digits):
    folder, _ = trained
    run('test.py', ROOT / 'configs/digits/teacher.py', 'teacher.pth', '--work-dir', folder / 'test_teacher',
        *digits_options(digits), cwd=folder)
    assert 'coco/bbox_mAP' in metrics(folder / 'test_teacher')


@pytest.mark.parametrize('config', ['student', 'gkd'])
def test_a_checkpoint_of_another_model_is_not_tested(trained, digits, config):
    folder, _ = trained
    out = run('test.py', ROOT / f'configs/digits/{config}.py', 'teacher.pth', '--work-dir', folder / 'other',
              *digits_options(digits), cwd=folder, ok=False)
    last = out.strip().splitlines()[-1]
    assert "checkpoint 'teacher.pth' is not of the model of this config: of 90 parameters" in last
    assert 'mis-shaped' in last and ' missing' not in last


@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_a_runner_of_ones_own(trained, digits, tool, monkeypatch):
    folder, _ = trained
    monkeypatch.setenv('PYTHONPATH', str(folder))
    (folder / 'loud.py').write_text(f"""_base_ = {str(ROOT / 'configs/digits/teacher.py')!r}
custom_imports = dict(imports=['loud_runner'])
runner_type = 'Loud'
""")
    (folder / 'loud_runner.py').write_text("""
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
@RUNNERS.register_module()
class Loud(Runner):
    def call_hook(self, name, **kwargs):
        print('loud', name)
        super().call_hook(name, **kwargs)
""")
    checkpoint = ['teacher.pth'] if tool == 'test.py' else []
    out = run(tool, 'loud.py', *checkpoint, '--work-dir', folder / 'loud', *digits_options(
        digits, 'train_cfg.max_epochs=1'), cwd=folder)
    assert f'loud before_{tool.removesuffix(".py")}' in out


def test_show_dir_and_tta(trained, digits):
    folder, _ = trained
    run('test.py', ROOT / 'configs/digits/gkd.py', 'gkd/epoch_1.pth', '--work-dir', folder / 'shown', '--tta',
        '--show-dir', 'drawn', *digits_options(digits), cwd=folder)
    assert 'coco/bbox_mAP' in metrics(folder / 'shown')
    assert len(list((folder / 'shown').glob('*/drawn/*.jpg'))) == 4


def test_tta_of_several_data_sets(trained, digits):
    folder, _ = trained
    (folder / 'several.py').write_text(f'''
_base_ = {str(ROOT / 'configs/digits/student.py')!r}
part = _base_.test_dataloader.dataset
test_dataloader = dict(dataset=dict(_delete_=True, type='ConcatDataset', datasets=[
    dict(type='RepeatDataset', times=1, dataset=part), dict(_base_.val_dataloader.dataset, indices=2)]))
''')
    data = [f'test_dataloader.dataset.datasets.{part}.data_root={digits}/' for part in ('0.dataset', '1')]
    out = run('test.py', 'several.py', 'gkd/epoch_1.pth', '--work-dir', 'several', '--tta', '--out', 'several.pkl',
              '--cfg-options', *data, f'test_evaluator.ann_file={digits}/annotations/val.json',
              'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False', cwd=folder)
    assert 'DetTTAModel' in out
    found = pickle.loads((folder / 'several.pkl').read_bytes())
    assert len(found) == 6 and len({sample['img_id'] for sample in found}) == 4
    for again, first in zip(found[4:], found, strict=False):  # the two parts are augmented alike
        assert torch.equal(again['pred_instances']['scores'], first['pred_instances']['scores'])
    assert 'coco/bbox_mAP' in metrics(folder / 'several')


def test_resume_goes_on_and_scales_the_rate(trained, digits):
    folder, _ = trained
    more = digits_options(digits, 'model.teacher.checkpoint=teacher.pth', 'train_cfg.max_epochs=2',
                          'train_dataloader.batch_size=4', 'auto_scale_lr.base_batch_size=8')
    out = run('train.py', ROOT / 'configs/digits/gkd.py', '--work-dir', folder / 'gkd', '--resume',
              '--auto-scale-lr', *more, cwd=folder)
    assert 'LR is set based on batch size of 8' in out
    assert 'resumed epoch: 1' in out
    assert (folder / 'gkd/epoch_2.pth').exists()


@pytest.mark.parametrize(('tool', 'args', 'said'), [
    ('train.py', ['nowhere.py'], "no config file 'nowhere.py'"),
    ('train.py', ['mmdet::nowhere.py'], "config: no config 'mmdet::nowhere.py' in the installed package"),
    ('test.py', ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'teacher.pth'],
     "no 'data/coco/annotations/instances_val2017.json'"),
    ('test.py', ['{configs}/digits/student.py', 'nowhere.pth'], "no checkpoint 'nowhere.pth'"),
    ('train.py', ['{configs}/digits/gkd.py'], "teacher: no checkpoint 'work_dirs/digits_teacher/"),
    ('train.py', ['{configs}/digits/student.py', '--cfg-options', 'load_from=nowhere.pth'],
     "load_from: no checkpoint 'nowhere.pth'"),
    ('train.py', ['{configs}/digits/student.py', '--cfg-options', 'model.roi_head.bbox_head.num_classes=7'],
     'has 10 classes (0, 1, 2, ...), but the model\'s model.roi_head.bbox_head.num_classes is 7'),
    ('train.py', ['{configs}/digits/gkd.py', '--cfg-options', 'model.teacher.config=nowhere.py'],
     "teacher: no config file 'nowhere.py'"),
    ('train.py', ['{configs}/gkd_frcnn_r50_coco.py'], "no 'data/coco/annotations/instances_train2017.json'"),
    ('test.py', ['{configs}/digits/student.py', 'x.pth', '--out', 'x.json'], '--out must end in .pkl'),
    ('test.py', ['{configs}/digits/student.py', 'x.pth', '--tta', '--cfg-options', 'test_dataloader=None'],
     'has no test_dataloader'),
    ('test.py', ['{configs}/digits/student.py', 'teacher.pth', '--tta', '--cfg-options',
                 'test_dataloader.dataset.pipeline=[]'], '--tta: CocoDataset in test_dataloader has no pipeline'),
    ('train.py', ['{configs}/digits/gkd.py', '--cfg-options', 'model.type=mmgkd.Distiller'],
     "teacher: no checkpoint 'work_dirs/digits_teacher/"),
    ('test.py', ['{configs}/digits/student.py', 'teacher.pth', '--out', 'x.pkl', '--cfg-options',
                 'test_evaluator.type=MultiDatasetEvaluator', 'test_evaluator.metrics=[]'],
     '--out: a MultiDatasetEvaluator keeps no detections'),
    pytest.param('train.py', ['{configs}/digits/student.py', '--amp'], '--amp needs a GPU', marks=pytest.mark.skipif(
        get_device() != 'cpu', reason='it has one')),
])
def test_mistakes_are_one_clear_line(tool, args, said, digits, tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits)
    (tmp_path / 'teacher.pth').touch()
    out = run(tool, *[a.format(configs=ROOT / 'configs') for a in args], cwd=tmp_path, ok=False)
    assert said in out and 'Traceback' not in out
    assert not (tmp_path / 'work_dirs').exists()


def random_teacher(path, config):
    """A checkpoint of random weights, under a config that would start from ImageNet's."""
    teacher_file(path, model_config(config, dict(backbone=dict(init_cfg=None))))


def scaled(steps):
    """Options that shrink the images of a public config."""
    return [f'{loader}_dataloader.dataset.{where}pipeline.{step}.scale=(128,128)' for loader, where, step in steps]


def test_the_coco_config_trains_and_tests_on_coco_files(digits, tmp_path):
    coco_layout(digits, tmp_path / 'data/coco')
    random_teacher(tmp_path / 'teacher.pth', 'mmdet::faster_rcnn/faster-rcnn_r101_fpn_2x_coco.py')
    config = ROOT / 'configs/gkd_frcnn_r50_coco.py'
    small = ['--cfg-options', 'model.teacher.checkpoint=teacher.pth', 'model.student.backbone.init_cfg=None',
             'train_cfg.max_epochs=1', 'model.student.test_cfg.rcnn.score_thr=0',  # without a box there is no mAP
             *scaled([('train', '', 2), ('val', '', 1), ('test', '', 1)])]
    run('train.py', config, '--work-dir', 'run', *small, cwd=tmp_path)
    run('test.py', config, 'run/epoch_1.pth', '--work-dir', 'tested', *small, cwd=tmp_path)
    assert 'coco/bbox_mAP' in metrics(tmp_path / 'tested')


def test_the_voc_config_trains_and_tests_on_voc_files(digits, tmp_path):
    voc_layout(digits, tmp_path / 'data/VOCdevkit')
    random_teacher(tmp_path / 'teacher.pth', str(ROOT / 'configs/voc/faster-rcnn_r101_voc.py'))
    config = ROOT / 'configs/gkd_frcnn_r50_voc.py'
    train = [f'train_dataloader.dataset.dataset.datasets.{i}.{key}' for i in (0, 1)
             for key in ('pipeline.2.scale=(128,128)', 'filter_cfg.bbox_min_size=1')]
    small = ['--cfg-options', 'model.teacher.checkpoint=teacher.pth', 'model.student.backbone.init_cfg=None',
             'train_cfg.max_epochs=1', 'train_dataloader.dataset.times=1', *train,
             *scaled([('val', '', 1), ('test', '', 1)])]
    run('train.py', config, '--work-dir', 'run', *small, cwd=tmp_path)
    run('test.py', config, 'run/epoch_1.pth', '--work-dir', 'tested', *small, cwd=tmp_path)
    assert 'pascal_voc/mAP' in metrics(tmp_path / 'tested')


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_the_distributed_scripts_say_how_they_are_used(script):
    done = subprocess.run(['bash', ROOT / 'tools' / script], capture_output=True, text=True)
    assert done.returncode == 2 and f'tools/{script} CONFIG' in done.stderr
