"""How much distillation counts over a run, and what comes before it."""
import math
from types import SimpleNamespace

import pytest
import torch
from conftest import build, distiller, distiller_config, losses, neck, tiny, total
from mmdet.registry import HOOKS, MODELS
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import DataLoader

from mmgkd import DistillLoss, DistillWeightHook
from mmgkd.running import epoch_length


def half_cosine(done):
    return (1 + math.cos(math.pi * done)) / 2


@pytest.mark.parametrize('kwargs, expected', [
    (dict(), [1] * 8),
    (dict(warmup=4), [.25, .5, .75, 1, 1, 1, 1, 1]),
    (dict(stop=3), [1, 1, 1, 0, 0, 0, 0, 0]),
    (dict(stop=0), [0] * 8),
    (dict(decay_from=2, stop=6, decay='linear'), [1, 1, 1, .75, .5, .25, 0, 0]),
    (dict(decay_from=2, stop=6), [1, 1, *map(half_cosine, (0, .25, .5, .75)), 0, 0]),
    (dict(warmup=2, decay_from=4, stop=6, decay='linear'), [.5, 1, 1, 1, 1, .5, 0, 0]),
    (dict(warmup=2, decay_from=2, stop=2), [.5, 1, 0, 0, 0, 0, 0, 0]),
])
def test_weight_at(kwargs, expected):
    hook = DistillWeightHook(**kwargs)
    assert [hook.weight_at(i) for i in range(8)] == pytest.approx(expected)


def test_epochs_are_their_iterations():
    by_epoch = DistillWeightHook(warmup=1, decay_from=2, stop=4, by_epoch=True)
    by_iter = DistillWeightHook(warmup=5, decay_from=10, stop=20)
    assert [by_epoch.weight_at(i, epoch_length=5) for i in range(25)] == [by_iter.weight_at(i) for i in range(25)]


@pytest.mark.parametrize('batched', [False, True])
@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_an_epoch_is_what_all_processes_together_see_once(sampler, batched, monkeypatch):
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (1, 4))
    sampler = sampler(range(48), seed=0)
    loader = DataLoader(range(48), batch_sampler=torch.utils.data.BatchSampler(sampler, 2, False)) if batched else \
        DataLoader(range(48), batch_size=2, sampler=sampler)
    assert epoch_length(SimpleNamespace(train_dataloader=loader)) == 48 // (4 * 2)


def test_floats_are_shares_of_the_training():
    shares = DistillWeightHook(warmup=.1, decay_from=.5, stop=.8)
    counts = DistillWeightHook(warmup=5, decay_from=25, stop=40)
    assert [shares.weight_at(i, total=50) for i in range(50)] == [counts.weight_at(i) for i in range(50)]


def test_points_of_both_kinds_are_compared_when_training_is_known():
    hook = DistillWeightHook(warmup=30, stop=.5)
    assert hook.weight_at(40, total=100) == 1
    with pytest.raises(ValueError, match='warmup=30, stop=20'):
        hook.weight_at(0, total=40)


@pytest.mark.parametrize('kwargs', [
    dict(stop=1.5), dict(warmup=.5, stop=.2), dict(warmup=-1),
    dict(stop=-1), dict(warmup=5, stop=4), dict(warmup=5, decay_from=4, stop=9),
    dict(decay_from=5, stop=4), dict(decay_from=5), dict(decay='step')])
def test_wrong_points(kwargs):
    with pytest.raises(ValueError, match='|'.join(kwargs)):
        DistillWeightHook(**kwargs)


def test_a_plain_detector_is_refused(train):
    with pytest.raises(TypeError, match='DistillWeightHook needs a Distiller, the model is a RetinaNet'):
        train(tiny('retinanet'), custom_hooks=[dict(type='DistillWeightHook')])


def test_a_wrapped_distiller_is_found():
    from mmengine.model import MMDistributedDataParallel
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    torch.nn.Module.__init__(wrapper)
    wrapper.module = distiller()
    logged = []
    DistillWeightHook(warmup=4).before_train_iter(SimpleNamespace(
        model=wrapper, iter=1, max_iters=8, train_dataloader=DataLoader([0]),
        message_hub=SimpleNamespace(update_scalar=lambda *a: logged.append(a))), 0)
    assert wrapper.module.distill_weight == .5 and logged == [('train/distill_weight', .5)]


@HOOKS.register_module()
class Recorder(Hook):
    """Counts the teacher's runs, and writes down weight and losses of each iteration."""
    rows = []

    def before_train(self, runner):
        teacher, run = runner.model.teacher, type(runner.model.teacher).__call__
        self.calls = 0

        class Counted(type(teacher)):
            def __call__(teacher, *args):  # noqa: N805
                self.calls += 1
                return run(teacher, *args)
        teacher.__class__ = Counted

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.rows.append((runner.iter, runner.model.distill_weight, self.calls, outputs))


@pytest.fixture
def rows():
    Recorder.rows = []
    return Recorder.rows


HOOK = dict(type='DistillWeightHook', warmup=2, decay_from=2, stop=3, decay='linear', by_epoch=True)
HOOKS_CFG = [HOOK, dict(type='Recorder')]
WEIGHTS = [.25, .5, .75, 1, 1, .5, 0, 0]  # two iterations in an epoch


def test_a_run_follows_the_weights_and_rests_the_teacher(train, rows):
    model = distiller_config(tiny('retinanet'), dict(config=tiny('retinanet')))
    runner = train(model, 4, custom_hooks=HOOKS_CFG)
    assert [w for _, w, _, _ in rows] == WEIGHTS
    assert [calls for _, _, calls, _ in rows] == [1, 2, 3, 4, 5, 6, 6, 6]
    for _, weight, _, log in rows:
        if weight:
            assert log['loss_gkd_vertex'].item() == pytest.approx(weight * log['gkd_vertex'].item())
        else:
            assert not [key for key in log if 'gkd' in key or 'distill' in key]
    history = runner.message_hub.get_scalar('train/distill_weight').data[0]
    assert history.tolist() == pytest.approx(WEIGHTS)


def test_a_resumed_run_goes_on_with_the_same_weights(train, rows):
    model = distiller_config(tiny('retinanet'), dict(config=tiny('retinanet')))
    first = train(model, 1, custom_hooks=HOOKS_CFG)
    train(model, 4, custom_hooks=HOOKS_CFG, resume=True, load_from=f'{first.work_dir}/epoch_1.pth')
    assert [(i, w) for i, w, _, _ in rows] == list(enumerate(WEIGHTS))


def test_weight_scales_the_terms_alone():
    model = distiller()
    whole = losses(model)
    model.distill_weight = .25
    quarter = losses(model)
    for key, value in whole.items():
        factor = .25 if key.startswith('loss_gkd') else 1
        torch.testing.assert_close(quarter[key], [factor * v for v in value] if isinstance(value, list)
                                   else factor * value)


def test_weight_zero_neither_runs_nor_loads_the_teacher():
    model = build(distiller_config(teacher=dict(checkpoint='nowhere.pth')))
    model.distill_weight = 0
    assert not [key for key in losses(model) if 'gkd' in key]
    assert model.teacher.detector is None




@MODELS.register_module()
class Learning(DistillLoss):
    """With a part that is learned, and a look at what came before training."""

    same_shape = False
    weights = {'term': 2.}
    seen = None

    def prepare(self, student_shapes, teacher_shapes):
        self.layer = nn.Linear(student_shapes[0][0], teacher_shapes[0][0])
        self.unused = nn.Parameter(torch.ones(3))

    def before_training(self, runner):
        assert self.seen is None
        self.seen = runner.iter

    def forward(self, student_feats, teacher_feats, data_samples=None):
        assert student_feats[0].shape[1] == 16 and teacher_feats[0].shape[1] == 24
        difference = self.layer(student_feats[0].mean((2, 3))) - teacher_feats[0].mean((2, 3))
        return {'term': [difference.square().mean()]}


LEARNING = dict(teacher=dict(config=tiny(**neck(24))), distill_losses=dict(own=dict(type='Learning')))


def test_losses_prepare_themselves_before_training(train):
    runner = train(distiller_config(**LEARNING), custom_hooks=[dict(type='PrepareLossesHook')])
    loss = runner.model.distill_losses['own']
    assert loss.seen == 0
    saved = torch.load(f'{runner.work_dir}/epoch_1.pth', weights_only=False)['state_dict']
    assert saved['distill_losses.own.layer.weight'].shape == (24, 16)


def test_every_learned_parameter_has_a_gradient():
    model = distiller(**LEARNING)
    total(model, losses(model)).backward()
    own = dict(model.distill_losses.named_parameters())
    assert own['own.unused'].grad.equal(torch.zeros(3)) and own['own.layer.weight'].grad.any()


def test_preparing_needs_a_distiller(train):
    with pytest.raises(TypeError, match='PrepareLossesHook needs a Distiller, the model is a RetinaNet'):
        train(tiny('retinanet'), custom_hooks=[dict(type='PrepareLossesHook')])


def test_two_weight_hooks_are_refused(train):
    with pytest.raises(ValueError, match='two DistillWeightHooks'):
        train(distiller_config(), custom_hooks=[dict(type='DistillWeightHook'), dict(type='DistillWeightHook', stop=3)])


def test_two_preparations_are_one(train):
    """Each method's file brings its own hook; ``Learning`` refuses to be prepared twice."""
    train(distiller_config(**LEARNING), custom_hooks=[dict(type='PrepareLossesHook')] * 2)
