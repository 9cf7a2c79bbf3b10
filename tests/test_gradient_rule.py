"""Distillation's gradient held below the task's: what the optimiser gets, against clipping by hand."""
import functools
import math

import numpy as np
import pytest
import torch
from conftest import build, distiller, distiller_config, losses, raw_batch, run_config, tiny
from mmdet.registry import HOOKS, MODELS
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmgkd import DistillLoss
from mmgkd.functional import float32_island
from mmgkd.gradient_rule import _Fork, check_rules, limited_gradients


@MODELS.register_module()
class Pull(DistillLoss):
    """The student's maps towards the teacher's, with a factor that it learns."""

    def __init__(self, *, rule='none'):
        super().__init__()
        self.gradient_rule, self.weights = rule, {'term': 1.}
        self.factor = torch.nn.Parameter(torch.tensor(2.))

    def forward(self, student_feats, teacher_feats, data_samples=None):
        values = []
        for s, t in zip(student_feats, teacher_feats, strict=True):
            with float32_island(s):
                d = (s.float() - t.float()).flatten(1)  # (N, D)
                values.append(self.factor * (d @ d.mT).trace() / d.numel())
        return {'term': values}


OWN = ('connector.', 'distill_losses.')
STRONG, WEAK = 1., 1e-7
"""Weights at which all gradients of distillation are above the task's, or next to none is."""
RETINA = tiny('retinanet')
WIDER = tiny('retinanet', neck=dict(out_channels=24), bbox_head=dict(in_channels=24))
FROZEN = tiny('retinanet', backbone=dict(frozen_stages=1))


@functools.cache
def built(names, student, teacher):
    configs = dict(retina=RETINA, wider=WIDER, frozen=FROZEN, faster=tiny())
    return distiller(configs[student], dict(config=configs[teacher]),
                     distill_losses={name: dict(type='Pull') for name in names})


def model_of(student='retina', teacher='retina', **pulls):
    """With a ``Pull`` for each name: its rule, or that and its weight."""
    model = built(tuple(pulls), student, teacher)
    for name, options in pulls.items():
        rule, weight = (options, STRONG) if isinstance(options, str) else options
        model.distill_losses[name].gradient_rule = rule
        model.distill_losses[name].weights = {'term': weight}
    model._rule = check_rules(model.distill_losses)
    model.distill_weight, model.epoch, model.loss_scaler = 1., 0, None
    return model


def gradients(model, value):
    found = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, allow_unused=True)
    return {name: torch.zeros_like(p) if g is None else g
            for (name, p), g in zip(model.named_parameters(), found, strict=True)}


def parts(model):
    """The gradients of the task and of each loss, with no rule at work, and the log."""
    rule, model._rule = model._rule, 'none'
    terms = losses(model)
    model._rule = rule
    own = {k: v for k, v in terms.items() if not any(f'loss_{name}_' in k for name in model.distill_losses)}
    task = gradients(model, model.parse_losses(own)[0])
    each = {name: gradients(model, sum(terms[f'loss_{name}_term'])) for name in model.distill_losses}
    return task, each, model.parse_losses(terms)[1]


def whole(model):
    """The gradient that the rule gives, and the log."""
    value, log = model.parse_losses(losses(model))
    return gradients(model, value), log


def clip(task, distill, bound):
    """By hand, one tensor after another."""
    clipped = {}
    for name, g in distill.items():
        norms = [np.sqrt((v.double().numpy() ** 2).sum()) for v in (task[name], g)]
        held = not name.startswith(OWN) and norms[1] > bound * norms[0]
        clipped[name] = g * (bound * norms[0] / norms[1]) if held else g
    return clipped


def check(got, *expected):
    """That each gradient is the sum of those expected, to a part in a thousand of its norm."""
    for name, g in got.items():
        want = sum(e[name] for e in expected)
        assert (g - want).norm() <= 1e-3 * want.norm() + 1e-12, name


@pytest.mark.parametrize('epoch', [0, 1, 20])
@pytest.mark.parametrize('weight', [STRONG, WEAK])
def test_full_is_clipping_by_hand(weight, epoch):
    model = model_of(kd=('full', weight))
    model.epoch = epoch
    task, each, plain = parts(model)
    got, log = whole(model)
    bound = 1 / (1 + math.exp(-epoch))
    clipped = clip(task, each['kd'], bound)
    check(got, task, clipped)
    changed = [name for name, g in each['kd'].items() if not torch.equal(clipped[name], g)]
    assert (len(changed) > 20) == (weight == STRONG)
    for name in each['kd']:
        if not name.startswith(OWN):
            assert (got[name] - task[name]).norm() <= bound * task[name].norm() * 1.001 + 1e-12
    assert log.keys() == plain.keys()
    assert all(log[k].item() == pytest.approx(v.item()) for k, v in plain.items())


@pytest.mark.parametrize('epoch', [0, 20])
@pytest.mark.parametrize('weight', [STRONG, WEAK])
def test_feature_is_one_factor_for_what_lies_before_the_maps(weight, epoch):
    model = model_of(kd=('feature', weight))
    model.epoch = epoch
    task, each, plain = parts(model)
    got, log = whole(model)
    leaves = []

    def cut(_module, _args, output):
        leaves[:] = [x.detach().requires_grad_() for x in output]
        return tuple(leaves)
    handle = model.student.neck.register_forward_hook(cut)
    model._rule = 'none'
    terms = losses(model)
    handle.remove()
    norms = [torch.cat([g.flatten() for g in torch.autograd.grad(value, leaves, retain_graph=True)]).norm()
             for value in (model.parse_losses({k: v for k, v in terms.items() if 'kd' not in k})[0],
                           sum(terms['loss_kd_term']))]
    factor = min(1, (norms[0] / norms[1]).item() / (1 + math.exp(-epoch)))
    assert (factor < .9) == (weight == STRONG)
    check(got, task, {name: g * (1 if name.startswith(OWN) else factor) for name, g in each['kd'].items()})
    assert all(log[k].item() == pytest.approx(v.item()) for k, v in plain.items())


@pytest.mark.parametrize('rule', ['full', 'feature'])
def test_what_only_distillation_trains_is_not_held_down(rule):
    model = model_of(teacher='wider', kd=rule)
    task, each, _ = parts(model)
    got, _ = whole(model)
    own = [name for name in got if name.startswith(OWN)]
    assert {'distill_losses.kd.factor', 'connector.projections.0.conv.weight'} <= set(own)
    check({name: got[name] for name in own}, each['kd'])
    assert all(got[name].any() for name in own)


@pytest.mark.parametrize('rule', ['full', 'feature'])
def test_a_loss_without_rule_is_not_held_down(rule):
    """And does not count as the task."""
    free = parts(model_of(teacher='wider', free='none', held=rule))[1]['free']
    model = model_of(teacher='wider', free='none', held=rule)
    got = whole(model)[0]
    model.distill_losses['free'].weights = {'term': 0.}
    alone = whole(model)[0]
    check({name: g - alone[name] for name, g in got.items()}, free)


@pytest.mark.parametrize('names', [['a', 'b'], ['b', 'a']])
def test_each_loss_is_held_down_by_itself(names):
    model = model_of(**{name: ('full', STRONG if name == 'a' else WEAK) for name in names})
    task, each, _ = parts(model)
    check(whole(model)[0], task, *(clip(task, g, .5) for g in each.values()))


@pytest.mark.parametrize('rule', ['full', 'feature'])
def test_the_weight_of_distillation_lowers_the_bound(rule):
    """Or a decay would not be seen where the rule is at work."""
    model = model_of(kd=rule)
    task, _, _ = parts(model)
    whole_weight = whole(model)[0]
    model.distill_weight = .1
    check(whole(model)[0], {name: g + .1 * (whole_weight[name] - g) for name, g in task.items()})


@pytest.mark.parametrize('rule', ['full', 'feature'])
def test_frozen_stages(rule):
    model = model_of('frozen', kd=rule)
    model.zero_grad()
    value, _ = model.parse_losses(losses(model))
    value.backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(p.grad is not None for p in model.student.backbone.layer1.parameters())


# ---- what the optimiser does with it

class Recorder(torch.optim.SGD):
    """Keeps the gradients of each step."""

    def step(self, closure=None):
        self.seen = [None if p.grad is None else p.grad.clone() for g in self.param_groups for p in g['params']]
        return super().step(closure)


class ScaledWrapper(OptimWrapper):
    """AmpOptimWrapper without its need of a GPU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=512.)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.unscale_(self.optimizer)
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


def stepped(model, wrapper=OptimWrapper, steps=1, **options):
    """The gradients at the one step of the optimiser that so many train_steps make."""
    optim = wrapper(optimizer=Recorder(model.parameters(), lr=0.), accumulative_counts=steps, **options)
    model.loss_scaler = getattr(optim, 'loss_scaler', None)
    for _ in range(steps):
        torch.manual_seed(0)
        model.train_step(raw_batch(), optim)
    return dict(zip(dict(model.named_parameters()), optim.optimizer.seen, strict=True))


@pytest.mark.parametrize('rule', ['full', 'feature'])
@pytest.mark.parametrize('kwargs', [dict(), dict(steps=2), dict(wrapper=ScaledWrapper)], ids=str)
def test_train_step(rule, kwargs):
    model = model_of(kd=rule)
    want = whole(model)[0]
    model.zero_grad()
    check(stepped(model, **kwargs), want)


def test_gradients_are_clipped_after_the_rule():
    model = model_of(kd='full')
    want = whole(model)[0]
    norm = torch.cat([g.flatten() for g in want.values()]).norm().item()
    model.zero_grad()
    check(stepped(model, clip_grad=dict(max_norm=norm / 4)), {name: g / 4 for name, g in want.items()})


def test_mixed_precision():
    """The gradients are those of a backward pass outside of autocast, which would round them once more."""
    model = model_of(teacher='wider', kd='full')
    batch = losses_under_autocast(model)
    got = gradients(model, model.parse_losses(batch)[0])
    model._rule = 'none'
    terms = losses_under_autocast(model)
    task = gradients(model, model.parse_losses({k: v for k, v in terms.items() if 'kd' not in k})[0])
    check(got, task, clip(task, gradients(model, sum(terms['loss_kd_term'])), .5))


def losses_under_autocast(model):
    with torch.autocast('cpu', torch.bfloat16):
        return losses(model, ((128, 128), (128, 96)))


def test_an_overflow_reaches_the_scaler():
    """It then skips the step and lowers its scale."""
    model = model_of(kd='full')
    model.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1e38)
    assert not all(g.isfinite().all() for g in whole(model)[0].values())


def test_losses_without_gradient():
    model = model_of(kd='full')
    with torch.no_grad():
        terms = losses(model)
    assert not any(x.requires_grad for v in terms.values() for x in (v if isinstance(v, list) else [v]))


@HOOKS.register_module()
class Epochs(Hook):
    """Writes down what the rule goes by."""
    seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((runner.model.epoch, runner.model.loss_scaler))


@pytest.mark.parametrize('by_epoch', [True, False])
def test_the_hook_tells_epochs(digits, tmp_path, by_epoch):
    """Also where training is counted in iterations."""
    Epochs.seen = []
    model = distiller_config(RETINA, dict(config=RETINA), distill_losses=dict(kd=dict(type='Pull', rule='full')))
    config = run_config(digits, tmp_path, model, custom_hooks=[dict(type='PrepareLossesHook'), dict(type='Epochs')])
    config.train_cfg = dict(by_epoch=True, max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=4)
    Runner.from_cfg(config).train()
    assert Epochs.seen == [(0, None), (0, None), (1, None), (1, None)]


# ---- alone

def test_limited_gradients_of_plain_tensors():
    torch.manual_seed(0)
    student, own = [torch.randn(4, requires_grad=True) for _ in range(3)], [torch.randn(2, requires_grad=True)]
    task = (student[0] * torch.tensor([3., 0, 0, 4])).sum() + student[1].sum() * 1e-9
    distill = [(student[0] * 100).sum() + student[2].sum() + own[0].sum(), student[0].sum()]
    got = limited_gradients(task, distill, student, own, bound=.5)
    torch.testing.assert_close(got[0], torch.tensor([3., 0, 0, 4]) + 2.5 / 2 + 1)
    torch.testing.assert_close(got[1], torch.full((4,), 1e-9))
    assert not got[2].any()  # the task does not reach it
    torch.testing.assert_close(got[3], torch.ones(2))
    torch.testing.assert_close(limited_gradients(task * 8, [8 * d for d in distill], student, own, bound=.5,
                                                 scale=1 / 8), [8 * g for g in got])


@pytest.mark.parametrize('shape', [(0, 2, 3, 3), (2, 2, 3, 3)])
def test_the_fork(shape):
    maps = [torch.randn(shape, requires_grad=True) * 1 for _ in range(2)]
    a, b, c, d = _Fork.apply(.5, *maps)
    a.relu_()  # as heads may do
    gradients = torch.autograd.grad(a.sum() + b.sum() * 0 + (c * 100).sum() + d.sum(), maps)
    count = maps[0].relu().bool().sum() if shape[0] else 0
    assert all(g.isfinite().all() for g in gradients)
    if shape[0]:
        factor = .5 * math.sqrt(count) / math.sqrt(36 * (100 ** 2 + 1))
        torch.testing.assert_close(gradients[1], torch.full(shape, factor))
        torch.testing.assert_close(gradients[0], maps[0].detach().gt(0) + torch.full(shape, 100 * factor))


def test_nothing_is_held_below_nothing():
    maps = [torch.ones(1, 2, 3, 3, requires_grad=True)]
    a, b = _Fork.apply(1., *maps)
    gradient, = torch.autograd.grad(b.sum() + a.sum() * 0, maps)
    assert not gradient.any()
    a, b = _Fork.apply(1., *maps)
    gradient, = torch.autograd.grad(a.sum(), maps)
    assert torch.equal(gradient, torch.ones(1, 2, 3, 3))


# ---- errors

def test_unknown_rules():
    with pytest.raises(ValueError, match="gradient_rule must be one of .*'half'"):
        build(distiller_config(distill_losses=dict(kd=dict(type='Pull', rule='half'))))


def test_two_rules():
    with pytest.raises(ValueError, match="must have the same, got {'a': 'full', 'b': 'feature'}"):
        build(distiller_config(distill_losses=dict(
            a=dict(type='Pull', rule='full'), b=dict(type='Pull', rule='feature'), c=dict(type='Pull'))))


@pytest.mark.parametrize('rule', ['full', 'feature'])
def test_two_stage_detectors(rule):
    got = whole(model_of('faster', 'faster', kd=rule))[0]
    assert all(g.isfinite().all() for g in got.values())
    task = parts(model_of('faster', 'faster', kd=rule))[0]
    for name in ('backbone.conv1.weight', 'roi_head.bbox_head.fc_cls.weight'):
        assert 0 < (got[name] - task[name]).norm() + ('head' in name) <= task[name].norm() + ('head' in name)
