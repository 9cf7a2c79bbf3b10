"""mmpretrain's classifiers, distilled in its own scope and by its own configs, where it can be imported."""
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

mmpretrain = pytest.importorskip('mmpretrain', reason='mmpretrain, which needs torchvision, cannot be imported')

PAIR = """\
_base_ = ['mmpretrain::resnet/resnet18_8xb16_cifar10.py', '{root}/configs/_base_/classification/{method}.py']

model = dict(
    _delete_=True,
    type='mmgkd.Distiller',
    student=_base_.model,
    teacher=dict(config='{teacher}', checkpoint='{folder}/teacher.pth'),
    distill_losses=_base_.distill_losses)
custom_hooks = _base_.distill_hooks
part = dict(batch_size=8, num_workers=0, persistent_workers=False, dataset=dict(
    _delete_=True, type='CustomDataset', data_root='{folder}', data_prefix='images',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]))
train_dataloader = val_dataloader = test_dataloader = part
train_cfg = dict(by_epoch=True, max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture
def folder(tmp_path):
    """Images of ten classes, 32 pixels wide, in a folder for each class."""
    cv2 = pytest.importorskip('cv2')
    rng = np.random.default_rng(0)
    for i in range(20):
        path = tmp_path / 'images' / str(i % 10) / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    return tmp_path


def run(tool, *args):
    return subprocess.run([sys.executable, str(ROOT / 'tools' / tool), *map(str, args)], capture_output=True,
                          text=True, cwd=ROOT)


@pytest.mark.parametrize('method, teacher', [
    ('gkd', 'resnet/resnet34_8xb16_cifar10'), ('kd', 'resnet/resnet34_8xb16_cifar10'),
    ('hkd', 'resnet/resnet34_8xb16_cifar10'), ('kd', 'mobilenet_v3/mobilenet-v3-small_8xb16_cifar10')])
def test_a_pair_trains_and_its_student_is_plain(method, teacher, folder):
    name = f'mmpretrain::{teacher}.py'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        torch.save(mmpretrain.get_model(get_config(name)).state_dict(), folder / 'teacher.pth')
    config = folder / 'pair.py'
    config.write_text(PAIR.format(root=ROOT, method=method, teacher=name, folder=folder))
    done = run('train.py', config, '--work-dir', folder / 'run')
    assert done.returncode == 0, done.stderr[-2000:]
    log = next((folder / 'run').glob('*/*.log')).read_text()
    assert re.search(rf'loss: \d.*loss_{method}_', log) and 'loss_task' in log and 'nan' not in log
    tested = run('test.py', config, folder / 'run' / 'epoch_1.pth')
    assert 'accuracy/top1' in tested.stdout, tested.stderr[-2000:]
    plain = mmpretrain.get_model('resnet18_8xb16_cifar10')
    missing, unexpected = plain.load_state_dict(torch.load(
        folder / 'run' / 'epoch_1.pth', weights_only=False)['state_dict'], strict=False)
    assert not missing and all(key.startswith(('connector.', 'distill_losses.')) for key in unexpected)


def test_a_folder_that_is_not_there(folder):
    config = folder / 'pair.py'
    config.write_text(PAIR.format(root=ROOT, method='gkd', teacher='mmpretrain::resnet/resnet34_8xb16_cifar10.py',
                                  folder=folder).replace("data_prefix='images'", "data_prefix='pictures'"))
    done = run('train.py', config, '--work-dir', folder / 'run')
    assert done.returncode != 0 and "pictures' (data_prefix of CustomDataset" in done.stderr
    assert Config.fromfile(config).model.type == 'mmgkd.Distiller'
