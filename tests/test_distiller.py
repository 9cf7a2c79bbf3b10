"""The distiller as a user meets it: what it trains on and saves, and that it needs no teacher to predict."""
import json
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from conftest import (
    DETECTORS,
    ROOT,
    build,
    distiller,
    distiller_config,
    losses,
    neck,
    raw_batch,
    run_config,
    tiny,
    total,
)
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import HOOKS, MODELS
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper

from mmgkd import DistillLoss

TERMS = ['vertex', 'edge', 'spectral']
NOWHERE = dict(config='nowhere/teacher.py', checkpoint='nowhere/teacher.pth', allow_random=False)
WIDER = dict(config=tiny(**neck(24)))
OUR_TOOLS = ROOT / 'tools'
MMDET_TOOLS = Path(mmdet.__file__).parent / '.mim' / 'tools'


def weights(model):
    return dict(model.state_dict())


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)


# ---- losses

@pytest.mark.parametrize('name', DETECTORS)
def test_every_kind_of_detector_is_distilled(name):
    """One-stage, two-stage, with masks and DETR-like: with mmdet's own losses, unchanged, beside ours."""
    model = distiller(tiny(name), dict(config=tiny(name)))
    torch.manual_seed(0)
    alone = build(tiny(name))
    alone.init_weights()
    terms, own = losses(model), losses(alone.train())
    assert set(terms) == set(own) | {f'{kind}gkd_{t}' for t in TERMS for kind in ('', 'loss_')}
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for k in own for a, b in zip(
        *(x[k] if isinstance(x[k], list) else [x[k]] for x in (terms, own)), strict=True))
    total(model, terms).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_total_is_the_sum_of_what_is_called_loss():
    model = distiller()
    terms = losses(model)
    value, log = model.parse_losses(terms)
    trained_on = [v if isinstance(v, list) else [v] for k, v in terms.items() if 'loss' in k]
    assert value.item() == pytest.approx(sum(x.item() for values in trained_on for x in values))
    assert all(log[f'gkd_{t}'] > 0 and not log[f'gkd_{t}'].requires_grad for t in TERMS)


@pytest.mark.parametrize('factors', [(1, 1, 1), (2, .5, 10), (0, 1, 0)])
def test_terms_are_raw_and_weighted(factors):
    loss = dict(type='ChannelGraphLoss', num_eigenvectors=4, **{
        f'{t}_weight': f for t, f in zip(TERMS, factors, strict=True)})
    _, log = distiller().parse_losses(losses(distiller(distill_losses=dict(kd=loss))))
    for term, factor in zip(TERMS, factors, strict=True):
        assert (f'kd_{term}' in log) == (f'loss_kd_{term}' in log) == bool(factor)
        if factor:
            assert log[f'loss_kd_{term}'].item() == pytest.approx(factor * log[f'kd_{term}'].item())


def test_several_losses():
    one = dict(type='ChannelGraphLoss', num_eigenvectors=4)
    terms = losses(distiller(distill_losses=dict(a=one, b=dict(one, vertex_weight=3.))))
    assert torch.equal(terms['a_vertex'], terms['b_vertex'])
    torch.testing.assert_close(sum(terms['loss_b_vertex']), 3 * sum(terms['loss_a_vertex']))


@pytest.mark.parametrize('names', [[], ['loss'], ['my_loss'], ['gkd', 'loss2'], ['a b'], ['a.b'], ['']])
def test_bad_names_of_losses(names):
    with pytest.raises(ValueError, match='distill_losses'):
        build(distiller_config(distill_losses={name: dict(type='ChannelGraphLoss') for name in names}))


@MODELS.register_module()
class BadlyNamed(DistillLoss):
    """Its raw term would be trained on beside the weighted one."""

    weights = dict(kl_loss=1.)

    def forward(self, student_feats, teacher_feats, data_samples=None):
        return dict(kl_loss=[student_feats[0].sum()])


def test_bad_names_of_terms():
    with pytest.raises(ValueError, match='kl_loss'):
        losses(distiller(distill_losses=dict(kd=dict(type='BadlyNamed'))))


@MODELS.register_module()
class Unweighted(BadlyNamed):
    """One term more than it has factors for."""

    weights = dict(near=1.)

    def forward(self, student_feats, teacher_feats, data_samples=None):
        return {term: [student_feats[0].sum()] for term in ('near', 'far')}


@MODELS.register_module()
class Unlisted(Unweighted):
    """One value instead of one for each level."""

    def forward(self, student_feats, teacher_feats, data_samples=None):
        return dict(near=student_feats[0].sum())


@MODELS.register_module()
class Weightless(DistillLoss):
    forward = BadlyNamed.forward


@pytest.mark.parametrize('given, error, complaint', [
    ([dict(type='ChannelGraphLoss')], ValueError, 'distill_losses must be a dict with a name for each loss'),
    (dict(kd=dict(type='Unweighted')), ValueError, "Unweighted: forward gave a term 'far', .* but for .'near'."),
    (dict(kd=dict(type='Unlisted')), TypeError, "Unlisted: forward must give a list .*, got a Tensor for 'near'"),
    (dict(kd=dict(type='Weightless')), TypeError, 'distill_losses.kd: Weightless must derive from mmgkd.DistillLoss'),
    (dict(kd=dict(type='mmdet.L1Loss')), TypeError, 'distill_losses.kd: L1Loss must derive from mmgkd.DistillLoss')])
def test_a_loss_of_ones_own_that_is_none(given, error, complaint):
    config = distiller_config()
    config['distill_losses'] = given
    with pytest.raises(error, match=complaint):
        losses(build(config))


def test_equal_detectors_have_no_distillation_loss(checkpoint):
    model = distiller(tiny(), dict(checkpoint=checkpoint), inherit='backbone+neck').eval()
    assert all(losses(model)[f'gkd_{t}'] < 1e-5 for t in TERMS)


@pytest.mark.parametrize('term', TERMS)
@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
def test_each_term_alone_reaches_the_students_backbone(term, teacher):
    model = distiller(teacher=teacher)
    sum(losses(model)[f'loss_gkd_{term}']).backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {'backbone.conv1.weight', 'neck.fpn_convs.0.conv.weight'} <= reached
    assert not [n for n in reached if 'head' in n]
    assert any(n.startswith('connector') for n in reached) == bool(teacher)
    assert not any(p.grad is not None for p in model.teacher.detector.parameters())


@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
@pytest.mark.parametrize('weight', [0, 1])
@pytest.mark.parametrize('levels', [None, [1, 0, 0, 0, 2]])
def test_every_parameter_gets_a_gradient(teacher, weight, levels):
    """Distributed training waits for each, forever."""
    model = distiller(teacher=teacher, distill_losses=dict(
        gkd=dict(type='ChannelGraphLoss', num_eigenvectors=4, level_weights=levels)))
    model.distill_weight = weight
    total(model, losses(model, boxes=[0, 0])).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_student_runs_once_and_the_teacher_once(monkeypatch):
    model, runs = distiller(), []
    for name, module in (('student', model.student.backbone), ('teacher', model.teacher.detector.backbone)):
        module.register_forward_hook(lambda *_, name=name: runs.append(name))
    losses(model)
    assert sorted(runs) == ['student', 'teacher']
    assert not model.student.neck._forward_hooks


# ---- padding

@MODELS.register_module()
class Patches(BaseModule):
    """Sees each patch of 8 pixels alone, so that padding changes no other cell."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = torch.nn.Conv2d(3, 16, 8, 8)

    def forward(self, x):
        return (self.conv(x).tanh(),)


def patches(divisor=1):
    config = tiny('retinanet')
    config['data_preprocessor']['pad_size_divisor'] = divisor
    config['backbone'] = dict(type='Patches')
    config['neck'] = dict(type='ChannelMapper', in_channels=[16], out_channels=16, kernel_size=1,
                          norm_cfg=None, act_cfg=None, num_outs=1)
    config['bbox_head']['anchor_generator']['strides'] = [8]
    return config


def gkd(model, batch):
    terms = model(**model.data_preprocessor(batch, True), mode='loss')
    return torch.stack([terms[f'gkd_{t}'] for t in TERMS])


def part(batch, i):
    return {k: [v[i]] for k, v in batch.items()}


@pytest.mark.parametrize('divisor', [1, 32, 128])
def test_padding_does_not_count(divisor):
    """A batch of images of several sizes costs the mean of what each costs alone, without padding."""
    shapes = (64, 64), (48, 40), (24, 64)
    alone, together = (distiller(patches(d), dict(config=patches())) for d in (1, divisor))
    for model in (alone, together):
        torch.manual_seed(1)
        for p in (*model.student.parameters(), *model.teacher.detector.parameters()):
            torch.nn.init.normal_(p, std=.1)
    batches = [part(raw_batch(shapes), i) for i in range(3)]
    expected = torch.stack([gkd(alone, batch) for batch in batches]).mean(0)
    assert (expected > 1e-3).all()
    torch.testing.assert_close(gkd(together, raw_batch(shapes)), expected, rtol=1e-4, atol=1e-6)


def test_what_stands_in_the_padding_is_not_read():
    model = distiller()
    samples = model.data_preprocessor(raw_batch(((64, 64), (32, 32))), True)['data_samples']
    student, teacher = ([torch.randn(2, 16, s, s) for s in (16, 8, 4)] for _ in range(2))
    before = model.distill(student, teacher, samples)
    for x in (*student, *teacher):
        half = x.shape[2] // 2
        x[1, :, half:], x[1, :, :, half:] = 1e3, -1e3
    after = model.distill(student, teacher, samples)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=1e-5, atol=1e-6)


# ---- precision and memory

@pytest.mark.parametrize('channels', [16, 24], ids=['identity', 'conv'])
def test_mixed_precision(channels):
    """Close to float32: the graphs are computed in it, from maps of half precision."""
    teacher = tiny('retinanet', neck=dict(out_channels=channels), bbox_head=dict(in_channels=channels))
    model = distiller(tiny('retinanet'), dict(config=teacher))
    shapes = (128, 128), (128, 96)  # no map of one cell, where bfloat16 convolutions on CPUs are not reliable
    full = losses(model, shapes)
    with torch.autocast('cpu', torch.bfloat16):  # AmpOptimWrapper's, which asks for a GPU
        half = losses(model, shapes)
    value, log = model.parse_losses(half)
    value.backward()
    assert value.isfinite() and not [n for n, p in model.named_parameters() if not p.grad.isfinite().all()]
    for term in TERMS:
        assert log[f'gkd_{term}'].dtype == torch.float32
        assert log[f'gkd_{term}'].item() == pytest.approx(full[f'gkd_{term}'].item(), rel=.02)


def test_autocast_does_not_reach_the_graphs():
    model = distiller()
    batch = model.data_preprocessor(raw_batch(), True)
    maps = [[torch.randn(2, 16, s, s, dtype=torch.bfloat16) for s in (16, 8, 4)] for _ in range(2)]
    outside = model.distill(*maps, batch['data_samples'])
    with torch.autocast('cpu', torch.bfloat16):
        inside = model.distill(*maps, batch['data_samples'])
    assert all(torch.equal(inside[f'gkd_{t}'], outside[f'gkd_{t}']) for t in TERMS)


def test_checkpointed_backbone():
    """with_cp runs the backbone again in the backward pass."""
    gradients = []
    for with_cp in (False, True):
        model = distiller(tiny(backbone=dict(with_cp=with_cp)))
        total(model, losses(model)).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], grad)


@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
def test_double_precision(teacher):
    model = distiller(teacher=teacher).double()
    batch = model.data_preprocessor(raw_batch(), True)
    assert batch['inputs'].dtype == torch.float64
    teacher_feats = model.teacher(**{k: batch[k] for k in ('inputs', 'data_samples')})
    student_feats, _ = model.connector(model.extract_feat(batch['inputs']), teacher_feats)
    terms = model.distill(student_feats, teacher_feats, batch['data_samples'])
    assert {terms[f'gkd_{t}'].dtype for t in TERMS} == {torch.float64}


# ---- beside the plain student

@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
def test_the_student_starts_as_it_would_alone(teacher):
    torch.manual_seed(3)
    alone = build(tiny())
    alone.init_weights()
    after = torch.rand(4)
    model = distiller(teacher=teacher, seed=3)
    assert equal(weights(model.student), weights(alone))
    assert torch.equal(torch.rand(4), after)  # and so does what is drawn next


def test_a_first_batch_draws_no_random_number():
    """Samplers of boxes draw from the same generator as they would alone."""
    model, states = distiller(), []
    batch = model.data_preprocessor(raw_batch(), True)
    for run in (model.student.loss, model.loss):
        torch.manual_seed(0)
        run(batch['inputs'], batch['data_samples'])
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize('teacher', [{}, WIDER], ids=['identity', 'conv'])
def test_without_weight_it_trains_as_the_plain_student(train, teacher):
    """With random sampling of boxes and random flips, to the last bit."""
    alone = train(tiny(), 2, flip=.5)
    model = train(distiller_config(teacher=teacher), 2, flip=.5,
                  custom_hooks=[dict(type='DistillWeightHook', stop=0)])
    distilled = train(distiller_config(teacher=teacher), 2, flip=.5)
    assert equal(weights(model.model.student), weights(alone.model))
    assert not equal(weights(distilled.model.student), weights(alone.model))


def test_predicts_as_the_plain_student():
    model = distiller().eval()
    alone = build(tiny()).eval()
    alone.load_state_dict(model.state_dict())
    for i, kwargs in enumerate([dict(mode='predict'), dict(mode='tensor')]):
        results = [m(**m.data_preprocessor(raw_batch(), False), **kwargs) for m in (model, alone)]
        if i == 0:
            results = [[torch.cat([s.pred_instances.bboxes, s.pred_instances.scores[:, None]], 1) for s in r]
                       for r in results]
            assert len(results[0][0])
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    inputs = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(
        model.extract_feat(inputs), alone.extract_feat(inputs), strict=True))


def test_attributes_are_the_students():
    """mmdet's hooks and tools reach for them."""
    model = distiller(tiny('mask_rcnn'))
    assert model.with_mask and model.with_rpn and model.with_neck
    assert model.roi_head is model.student.roi_head and model.backbone is model.student.backbone
    with pytest.raises(AttributeError, match='no_such_thing'):
        _ = model.no_such_thing


# ---- mmdet's and our own tools, on real files

def teacher_of(work):
    return dict(config=str(work / 'teacher.py'), checkpoint=str(work / 'teacher.pth'), allow_random=False)


@pytest.fixture(scope='module')
def project(tmp_path_factory, digits):
    """A user's folder: configs, a teacher's checkpoint, and a distiller trained by mmdet's own tool."""
    work = tmp_path_factory.mktemp('project')
    run_config(digits, work / 'teacher', tiny(**neck(24))).dump(work / 'teacher.py')
    torch.save(dict(state_dict=build(tiny(**neck(24))).state_dict()), work / 'teacher.pth')
    for name, model in (('student', tiny()), ('gkd', distiller_config(teacher=teacher_of(work))),
                        ('gkd_alone', distiller_config(teacher=NOWHERE))):
        run_config(digits, work / name, model, val=True).dump(work / f'{name}.py')
    done = subprocess.run(
        [sys.executable, MMDET_TOOLS / 'train.py', work / 'gkd.py'], capture_output=True, text=True, cwd=work,
        env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'), timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return work


def run_tool(monkeypatch, path, *args):
    """The script in this process, which spares the imports."""
    monkeypatch.setattr(sys, 'argv', [str(path), *map(str, args)])
    runpy.run_path(str(path), run_name='__main__')


def scalars(folder):
    log, = folder.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_mmdets_own_tool_trains_it(project):
    assert {f'{kind}gkd_{t}' for t in TERMS for kind in ('', 'loss_')} | {'loss_rpn_cls', 'loss_cls'} \
        <= set(scalars(project / 'gkd')[0])
    assert 'coco/bbox_mAP' in scalars(project / 'gkd')[-1]
    saved = torch.load(project / 'gkd' / 'epoch_1.pth', weights_only=False)['state_dict']
    assert {k for k in saved if not k.startswith('connector.')} == set(build(tiny()).state_dict())


def test_our_tool_trains_it_alike(project, monkeypatch):
    run_tool(monkeypatch, OUR_TOOLS / 'train.py', project / 'gkd.py', '--work-dir', project / 'ours')
    ours, theirs = (torch.load(project / name / 'epoch_1.pth', weights_only=False)['state_dict']
                    for name in ('ours', 'gkd'))
    assert equal(ours, theirs)


@pytest.mark.parametrize('config', ['student', 'gkd', 'gkd_alone'])
@pytest.mark.parametrize('tool', ['ours', 'mmdet'])
def test_tests_alike_as_distiller_as_student_without_teacher(project, monkeypatch, tmp_path, tool, config):
    path = (OUR_TOOLS if tool == 'ours' else MMDET_TOOLS) / 'test.py'
    run_tool(monkeypatch, path, project / f'{config}.py', project / 'gkd/epoch_1.pth',
             '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out.pkl')

    found = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    alone = init_detector(str(project / 'student.py'), str(project / 'gkd/epoch_1.pth'), device='cpu')
    for result in found:
        expected = inference_detector(alone, result['img_path']).pred_instances
        torch.testing.assert_close(result['pred_instances']['scores'], expected.scores, rtol=1e-4, atol=1e-6)


def test_test_time_augmentation_without_teacher(project, monkeypatch, tmp_path):
    run_tool(monkeypatch, OUR_TOOLS / 'test.py', project / 'gkd_alone.py', project / 'gkd/epoch_1.pth',
             '--tta', '--work-dir', tmp_path / 'work')


def test_inference_without_teacher(project):
    image = np.random.default_rng(0).integers(0, 255, (80, 96, 3), np.uint8)
    results = []
    for config in ('student', 'gkd_alone', 'gkd'):
        # without cfg_options init_detector looks for config.model.backbone, which no wrapper of detectors has
        model = init_detector(str(project / f'{config}.py'), str(project / 'gkd/epoch_1.pth'), device='cpu',
                              cfg_options={})
        assert not hasattr(model, 'teacher') or model.teacher.detector is None
        results.append(inference_detector(model, image).pred_instances)
    assert len(results[0])
    for other in results[1:]:
        assert torch.equal(other.bboxes, results[0].bboxes) and torch.equal(other.scores, results[0].scores)


def test_the_inferencer_without_teacher(project):
    from mmdet.apis import DetInferencer
    infer = DetInferencer(str(project / 'gkd_alone.py'), str(project / 'gkd/epoch_1.pth'), device='cpu')
    result, = infer(np.zeros((80, 96, 3), np.uint8), no_save_vis=True)['predictions']
    assert 'scores' in result


def test_training_without_teacher_is_an_error(project, monkeypatch, tmp_path):
    for folder, error in ((OUR_TOOLS, SystemExit), (MMDET_TOOLS, FileNotFoundError)):
        with pytest.raises(error, match='teacher: no config file .nowhere/teacher.py'):
            run_tool(monkeypatch, folder / 'train.py', project / 'gkd_alone.py', '--work-dir', tmp_path)


@HOOKS.register_module()
class TouchHead(Hook):
    """As YOLOXModeSwitchHook does."""

    def before_train_epoch(self, runner):
        runner.model.bbox_head.use_l1 = True


def test_a_hook_reaches_the_students_head(train):
    model = train(distiller_config(tiny('retinanet'), dict(config=tiny('retinanet'))),
                  custom_hooks=[dict(type='TouchHead')]).model
    assert model.student.bbox_head.use_l1


def test_gradients_accumulate():
    """Two halves of a batch, each at half weight, without the batch norms that would see the difference."""
    model = distiller(patches(), dict(config=patches()))
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=.1), accumulative_counts=2)
    before = model.student.backbone.conv.weight.clone()
    for step in range(2):
        assert torch.equal(model.student.backbone.conv.weight, before)
        model.train_step(part(raw_batch(((64, 64), (64, 64))), step), wrapper)
    assert not torch.equal(model.student.backbone.conv.weight, before)


# ---- misfits are errors when the model is built

@pytest.mark.parametrize('options, complaint', [
    (dict(num_eigenvectors=16), 'num_eigenvectors=16 must be below the number of channels, 16'),
    (dict(num_eigenvectors=4, level_weights=[1., 1.]), 'level_weights has 2 entries for 5 levels'),
    (dict(num_eigenvectors=4, level_weights=[1., 1., float('nan')]), 'level_weights must be at least 0'),
    (dict(num_eigenvectors=0), 'num_eigenvectors must be at least 1, got 0')])
def test_a_channel_graph_that_does_not_fit_the_maps(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        build(distiller_config(distill_losses=dict(gkd=dict(type='ChannelGraphLoss', **options))))


def test_a_preprocessor_outside_the_model():
    """As MMEngine's runner passes it on, from configs like mmpretrain's."""
    config = distiller_config()
    own = config['student'].pop('data_preprocessor')
    model = build(dict(config, data_preprocessor=own))
    assert type(model.data_preprocessor).__name__ == 'DetDataPreprocessor'
    assert torch.equal(model.data_preprocessor.mean, build(distiller_config()).data_preprocessor.mean)
