"""Checkpoints: a distiller's is a plain detector's, and a plain detector's is a distiller's."""
import copy
import io
import pickle

import pytest
import torch
from conftest import DETECTORS, ROOT, build, distiller, distiller_config, losses, neck, tiny, total
from mmdet.models import DetTTAModel
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import get_state_dict
from mmengine.runner.checkpoint import load_state_dict as mmengine_load

from mmgkd import DistillLoss

WIDER = dict(config=tiny(**neck(24)))
CONVS = [f'connector.projections.{i}.conv.{kind}' for i in range(5) for kind in ('weight', 'bias')]


def torch_load(model, state, strict=True):
    return model.load_state_dict(state, strict=strict)


LOADERS = pytest.mark.parametrize('load', [torch_load, mmengine_load], ids=['torch', 'mmengine'])


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in b)


@pytest.fixture
def plain():
    torch.manual_seed(7)
    model = build(tiny())
    model.init_weights()
    return model.state_dict()


@pytest.mark.parametrize('name', DETECTORS)
def test_keys_order_and_versions_are_the_plain_detectors(name):
    alone = build(tiny(name))
    model = build(distiller_config(tiny(name), dict(config=tiny(name))))
    for state in (model.state_dict(), get_state_dict(model)):
        assert list(state) == list(alone.state_dict())
        versions = state._metadata
        assert all(versions[k] == v for k, v in alone.state_dict()._metadata.items() if k)


@LOADERS
@pytest.mark.parametrize('name', DETECTORS)
def test_loads_in_the_plain_detector(name, load):
    model, alone = build(distiller_config(tiny(name), dict(config=tiny(name)))), build(tiny(name))
    load(alone, get_state_dict(model), True)
    assert equal(alone.state_dict(), model.student.state_dict())


def test_only_the_connector_is_extra():
    model, alone = distiller(teacher=WIDER), build(tiny())
    result = alone.load_state_dict(model.state_dict(), strict=False)
    assert not result.missing_keys and result.unexpected_keys == CONVS


@pytest.mark.parametrize('method', sorted(path.stem for path in (ROOT / 'configs/_base_').glob('*.py')
                                           if 'distill_losses =' in path.read_text()))
def test_no_key_speaks_of_students_and_teachers(method):
    """mmdet's semi-supervised detectors start both networks from a checkpoint unless one of its keys does."""
    losses = Config.fromfile(ROOT / f'configs/_base_/{method}.py').distill_losses
    model = build(distiller_config(tiny(**neck(24)), WIDER, distill_losses=losses))
    assert [key for key in model.state_dict() if 'student' in key or 'teacher' in key] == []


@LOADERS
@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
def test_round_trip(load, teacher):
    a, b = (distiller(teacher=teacher, seed=seed) for seed in (0, 1))
    assert not equal(a.state_dict(), b.state_dict())
    state = a.state_dict()
    before = dict(state)
    load(b, state, True)
    assert equal(a.state_dict(), b.state_dict())
    assert dict(state).keys() == before.keys()  # the caller's dict is its own


@LOADERS
def test_a_missing_part_of_the_connector_is_told(load):
    state = distiller(teacher=WIDER).state_dict()
    del state[CONVS[0]]
    with pytest.raises(RuntimeError, match=CONVS[0]):
        load(distiller(teacher=WIDER), state, True)


@LOADERS
@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
def test_a_plain_checkpoint_loads_and_leaves_the_connector(plain, load, teacher):
    model = distiller(teacher=teacher)
    before = copy.deepcopy(model.connector.state_dict())
    load(model, plain, True)
    assert equal(model.student.state_dict(), plain)
    assert equal(model.connector.state_dict(), before)


@LOADERS
def test_a_missing_or_extra_weight_of_the_student_is_told(plain, load):
    gone = plain.pop('backbone.conv1.weight')
    plain['backbone.conv0.weight'] = gone
    with pytest.raises(RuntimeError) as error:
        load(distiller(teacher=WIDER), plain, True)
    assert 'backbone.conv1.weight' in str(error.value) and 'backbone.conv0.weight' in str(error.value)
    assert 'connector' not in str(error.value)


@LOADERS
@pytest.mark.parametrize('strict', [True, False])
@pytest.mark.parametrize('state', [
    {'conv1.weight': torch.ones(8, 3, 7, 7)}, {'model.backbone.conv1.weight': torch.ones(8, 3, 7, 7)}])
def test_a_foreign_checkpoint_is_an_error(load, strict, state):
    with pytest.raises(ValueError, match=f'no weight of the student: .*{next(iter(state))}'):
        load(distiller(), state, strict)


@LOADERS
@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
def test_inside_a_test_time_augmentation(plain, load, teacher):
    """mmengine's loader sees through the wrapper, torch's does not."""
    model = distiller(teacher=teacher)
    state = {f'module.{k}': v for k, v in plain.items()} if load is torch_load else plain
    cfg = dict(nms=dict(type='nms', iou_threshold=.5), max_per_img=10)
    load(DetTTAModel(module=model, tta_cfg=cfg), state, True)
    assert equal(model.student.state_dict(), plain)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_load_checkpoint(plain, tmp_path, prefix):
    """Also one of a distributed run."""
    torch.save(dict(state_dict={prefix + k: v for k, v in plain.items()}), tmp_path / 'plain.pth')
    model = distiller(teacher=WIDER)
    load_checkpoint(model, str(tmp_path / 'plain.pth'), strict=True)
    assert equal(model.student.state_dict(), plain)


@LOADERS
def test_without_its_teacher_it_takes_its_own_checkpoint(load):
    """At test time there may be no teacher, so no connector."""
    trained = distiller(teacher=WIDER)
    resting = build(distiller_config(teacher=dict(config='nowhere.py', checkpoint='nowhere.pth')))
    load(resting, trained.state_dict(), True)
    assert equal(resting.student.state_dict(), trained.student.state_dict())


def test_no_statistic_of_the_last_batch_is_saved():
    model = distiller()
    before = set(model.state_dict())
    total(model, losses(model)).backward()
    assert set(model.state_dict()) == before


@MODELS.register_module()
class LearnedLoss(DistillLoss):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.weights, self.scale = dict(l2=1.), torch.nn.Parameter(torch.ones(()))

    def forward(self, student_feats, teacher_feats, data_samples=None):
        return dict(l2=[self.scale * (s - t).square().mean()
                        for s, t in zip(student_feats, teacher_feats, strict=True)])


@LOADERS
def test_parameters_of_a_loss_are_saved_and_a_plain_checkpoint_lacks_them(plain, load):
    a, b = (distiller(distill_losses=dict(mine=dict(type='LearnedLoss'))) for _ in range(2))
    with torch.no_grad():
        a.distill_losses['mine'].scale.fill_(3)
    assert set(a.state_dict()) - set(plain) == {'distill_losses.mine.scale'}
    load(b, a.state_dict(), True)
    assert b.distill_losses['mine'].scale == 3
    load(b, plain, True)
    assert b.distill_losses['mine'].scale == 3
    total(b, losses(b)).backward()
    assert b.distill_losses['mine'].scale.grad


@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
def test_deep_copy_and_pickled_state(teacher):
    model = distiller(teacher=teacher)
    twin = copy.deepcopy(model)
    assert equal(twin.state_dict(), model.state_dict())
    a, b = losses(model), losses(twin)
    assert total(model, a) == total(twin, b)
    with torch.no_grad():
        next(twin.student.parameters()).zero_()
    assert next(model.student.parameters()).any()
    twin.load_state_dict(model.state_dict())  # into the twin, not into the original
    assert equal(twin.state_dict(), model.state_dict())
    assert equal(pickle.loads(pickle.dumps(model.state_dict())), model.state_dict())
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert equal(torch.load(file, weights_only=True), model.state_dict())


# ---- through the Runner

def retina(channels=16):
    return tiny('retinanet', neck=dict(out_channels=channels), bbox_head=dict(in_channels=channels))


def model_config(channels=16):
    """A RetinaNet, which draws no samples at random, with its teacher of so many channels."""
    return distiller_config(retina(), dict(config=retina(channels)),
                            connector=dict(type='NeckConnector', norm_cfg=dict(type='BN')))


def weights_of(runner, epoch, key='state_dict'):
    return torch.load(f'{runner.work_dir}/epoch_{epoch}.pth', weights_only=False)[key]


HOOKS = [dict(type='DistillWeightHook', warmup=1, decay_from=3, stop=10)]
EMA = dict(type='EMAHook', momentum=.1, update_buffers=True)


@pytest.mark.parametrize('channels', [16, 24], ids=['identity', 'conv'])
@pytest.mark.parametrize('hooks', [HOOKS, [*HOOKS, EMA]], ids=['plain', 'ema'])
def test_resume_is_exact(train, channels, hooks):
    straight = train(model_config(channels), 2, custom_hooks=hooks)
    resumed = train(model_config(channels), 2, custom_hooks=hooks, resume=True,
                    load_from=f'{straight.work_dir}/epoch_1.pth')
    assert equal(weights_of(resumed, 2), weights_of(straight, 2))
    assert not equal(weights_of(straight, 1), weights_of(straight, 2))
    if EMA in hooks:
        assert equal(weights_of(resumed, 2, 'ema_state_dict'), weights_of(straight, 2, 'ema_state_dict'))
    alone = build(retina())
    extra = alone.load_state_dict(weights_of(resumed, 2), strict=False)
    assert not extra.missing_keys and all(k.startswith('connector.') for k in extra.unexpected_keys)
    assert bool(extra.unexpected_keys) == (channels == 24)


@pytest.mark.parametrize('hooks', [[], [EMA]], ids=['plain', 'ema'])
def test_load_from_a_plain_checkpoint(train, tmp_path, hooks):
    torch.manual_seed(7)
    alone = build(retina())
    torch.save(dict(state_dict=alone.state_dict(), meta={}), tmp_path / 'plain.pth')
    runner = train(model_config(24), 1, custom_hooks=hooks, load_from=str(tmp_path / 'plain.pth'),
                   optim_wrapper=dict(optimizer=dict(lr=0.)))
    trained = dict(alone.named_parameters())
    assert all(torch.equal(p, trained[n]) for n, p in runner.model.student.named_parameters())
    saved = weights_of(runner, 1)
    assert all(torch.equal(p, saved[n]) for n, p in trained.items())


def test_load_from_a_foreign_checkpoint(train, tmp_path):
    torch.save(dict(state_dict={'fc.weight': torch.ones(2)}), tmp_path / 'foreign.pth')
    with pytest.raises(ValueError, match='no weight of the student'):
        train(model_config(), load_from=str(tmp_path / 'foreign.pth'))
