"""What holds for every loss that compares maps: few images, dead maps, padding, layouts and types, its method file."""
import pytest
import torch
from conftest import ROOT, distiller, losses, neck, tiny, total
from maps_common import SHAPE, gradient, maps, mask, samples
from mmdet.registry import MODELS
from mmengine.config import Config

LOSSES = {
    'fitnet': dict(type='FitNetLoss'),
    'fitnet, normalised': dict(type='FitNetLoss', normalize=True),
    'at': dict(type='AttentionTransferLoss', reduction='sum'),
    'pkd': dict(type='PKDLoss'),
    'cwd': dict(type='CWDLoss'),
    'ickd': dict(type='ICKDLoss'),
    'mgd': dict(type='MGDLoss'),
    'fgd': dict(type='FGDLoss'),
    'fbkd': dict(type='FBKDLoss', strides=[2], reductions=[2]),
}
LEARNED = {'mgd', 'fgd', 'fbkd'}
METHODS = [p.relative_to(ROOT / 'configs/_base_').as_posix() for name in LOSSES for p in sorted(
    (ROOT / 'configs/_base_').rglob(f'{name}.py'))]
every = pytest.mark.parametrize('name', LOSSES)


def build(name, shapes=(SHAPE[1:],), dtype=torch.float64, wake=True):
    """Ready for use; parts that are zero at first are set to something, if woken."""
    torch.manual_seed(0)
    loss = MODELS.build(LOSSES[name])
    loss.prepare(shapes, shapes)
    for parameter in loss.parameters():
        if wake and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return loss.to(dtype)


def run(loss, student, teacher, data_samples=None):
    """Values per term, and the gradient of their sum."""
    torch.manual_seed(1)
    student = student if student.requires_grad else student.clone().requires_grad_()
    values = {term: value for term, (value,) in loss([student], [teacher], data_samples).items()}
    assert set(values) == set(loss.weights) and all(v.shape == () for v in values.values())
    return {term: v.detach() for term, v in values.items()}, gradient(sum(values.values()), student)[0]


@every
@pytest.mark.parametrize('shape', [(4, 6), (2, 2), (1, 1)])
@pytest.mark.parametrize('n', [0, 1, 2])
def test_few_images(n, shape, name):
    loss = build(name, dtype=torch.float32)
    student, teacher = maps((n, 5, *shape), dtype=torch.float32)
    out = loss([student.requires_grad_()], [teacher], samples(n, padded=shape == (4, 6)))
    value = sum(v for values in out.values() for v in values)
    value.backward()
    assert value.isfinite() and (value == 0 or n > 0)
    for x in (student, *loss.parameters()):
        assert x.grad is not None and x.grad.isfinite().all()


@every
@pytest.mark.parametrize('value', [0., 3.3, -1e3])
@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_constant_maps(dtype, side, value, name):
    student, teacher = maps(dtype=dtype)
    student = torch.full_like(student, value) if side != 'teacher' else student
    teacher = torch.full_like(teacher, value) if side != 'student' else teacher
    loss = build(name, dtype=dtype)
    values, found = run(loss, student, teacher, samples())
    assert all(v.isfinite() for v in values.values()) and found.isfinite().all()


@every
def test_only_the_student_and_what_is_learned_get_a_gradient(name):
    loss, (student, teacher) = build(name), maps()
    assert bool(list(loss.parameters())) == (name in LEARNED)
    values = loss([student.requires_grad_()], [teacher.requires_grad_()], samples())
    sum(v for value in values.values() for v in value).backward()
    assert teacher.grad is None and student.grad.abs().max() > 1e-4


@every
@pytest.mark.parametrize('content', [9., 1e15, 'noise'])
def test_what_padding_holds_does_not_matter(content, name):
    loss, (student, teacher), valid = build(name, dtype=torch.float32), maps(dtype=torch.float32), mask().unsqueeze(1)
    want, expected = run(loss, student, teacher, samples())
    noise = 100 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    other = noise if content == 'noise' else torch.full_like(noise, content)
    student, teacher = (torch.where(valid, x, y) for x, y in zip((student, teacher), other, strict=True))
    got, found = run(loss, student, teacher, samples())
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert (found.masked_select(~valid) == 0).all()
    unmasked, _ = run(loss, student, teacher, samples(padded=False))
    assert any((unmasked[term] - want[term]).abs() > 1e-3 * want[term] for term in want)


@every
def test_an_image_of_nothing_but_padding(name):
    loss, (student, teacher), given = build(name), maps(), samples()
    given[0].set_metainfo(dict(img_shape=(0, 0)))
    values, found = run(loss, student, teacher, given)
    assert all(v.isfinite() for v in values.values())
    assert (found[0] == 0).all() and found[1].isfinite().all() and found[1].abs().max() > 1e-4


LAYOUTS = {
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'every second cell': lambda x: torch.stack([x, 9 + x], -1).flatten(-2)[..., ::2],
    'inside more channels': lambda x: torch.cat([x, x + 9], 1)[:, :x.shape[1]],
}


@every
@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout, name):
    loss, (student, teacher) = build(name), maps()
    want, expected = run(loss, student, teacher, samples())
    torch.manual_seed(1)
    student.requires_grad_()
    laid = [LAYOUTS[layout](x) for x in (student, teacher)]
    assert not any(x.is_contiguous() for x in laid)
    values = {term: value for term, (value,) in loss([laid[0]], [laid[1]], samples()).items()}
    torch.testing.assert_close({term: v.detach() for term, v in values.items()}, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient(sum(values.values()), student)[0], expected, rtol=1e-9, atol=1e-11)


@every
def test_float32_is_accurate(name):
    student, teacher = maps((2, 5, 8, 12), dtype=torch.float32)
    given = samples(padded=False)
    want, expected = run(build(name), student.double(), teacher.double(), given)
    got, found = run(build(name, dtype=torch.float32), student, teacher, given)
    for term, value in got.items():
        assert value.dtype == torch.float32 and want[term].dtype == torch.float64
        assert value.item() == pytest.approx(want[term].item(), rel=1e-4), term
    assert (found - expected).norm() < 1e-4 * expected.norm()


@every
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast(dtype, name):
    """Mathematics is in float32; only the learned layers are not."""
    loss = build(name, dtype=torch.float32)
    student, teacher = (x.to(dtype) for x in maps((2, 5, 8, 12), dtype=torch.float32))
    want, expected = run(loss, student.float(), teacher.float(), samples(padded=False))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got, found = run(loss, student, teacher, samples(padded=False))
    assert found.dtype == dtype
    exact = name not in LEARNED
    for term, value in got.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(want[term].item(), rel=1e-6 if exact else 3e-2), term
    limit = 0.15 if not exact else 1e-6 if dtype == torch.float32 else 1e-2  # a ReLU may fall to the other side
    assert (found - expected).norm() < limit * expected.norm()


@every
def test_levels_are_never_dropped(name):
    student, teacher = maps()
    loss = build(name, [SHAPE[1:]] * 2)
    with pytest.raises((ValueError, RuntimeError), match='shorter|longer|learned parts'):
        loss([student], [teacher] * 2, samples())


@every
def test_maps_of_other_shapes(name):
    student, teacher = maps()
    wrong = student[:, :3] if name != 'at' else student[:1]  # whose channels may differ
    with pytest.raises(ValueError, match='student and teacher must be maps of one'):
        build(name)([wrong], [teacher], samples())


@pytest.mark.parametrize('path', METHODS)
def test_method_file(path):
    """Its losses train a detector of wider student or teacher, every parameter of which gets a gradient."""
    cfg = Config.fromfile(ROOT / 'configs/_base_' / path)
    assert set(cfg.keys()) == {'distill_losses', 'distill_hooks'}
    (name, config), = cfg.distill_losses.items()
    assert path.endswith(f'{name}.py') and config.type == LOSSES[name]['type']
    model = distiller(teacher=dict(config=tiny(**neck(24))), distill_losses=cfg.distill_losses.to_dict())
    terms = losses(model)
    loss = model.distill_losses[name]
    assert {f'loss_{name}_{term}' for term in loss.weights} <= set(terms)
    assert all(terms[f'{name}_{term}'] > 0 for term in loss.weights)
    total(model, terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_there_is_a_method_file_for_each():
    assert {path for path in METHODS if not path.startswith('classification/')} == {
        'at.py', 'cwd.py', 'fbkd.py', 'fgd.py', 'fitnet.py', 'ickd.py', 'mgd.py', 'pkd.py',
        'one_stage/fgd.py', 'one_stage/mgd.py', 'one_stage/pkd.py'}


@pytest.mark.parametrize('name, want', {
    'pkd': dict(loss_weight=10.), 'mgd': dict(loss_weight=2e-5, ratio=0.65),
    'fgd': dict(foreground_weight=1e-3, background_weight=5e-4, attention_weight=5e-4, relation_weight=5e-6,
                temperature=0.5)}.items())
def test_one_stage_weights(name, want):
    base, cfg = (Config.fromfile(ROOT / 'configs/_base_' / folder / f'{name}.py') for folder in ('', 'one_stage'))
    assert cfg.distill_losses[name] == dict(base.distill_losses[name], **want)


@pytest.mark.parametrize('name', ['pkd', 'cwd', 'ickd', 'mgd', 'fgd', 'fbkd'])
def test_defaults_are_those_of_the_method_file(name):
    config = Config.fromfile(ROOT / f'configs/_base_/{name}.py').distill_losses[name]
    written, default = MODELS.build(config), MODELS.build(dict(type=config.type))
    assert written.weights == default.weights
    assert getattr(written, 'options', None) == getattr(default, 'options', None)


@pytest.mark.parametrize('path, loss, weight, default', [
    ('ickd', 'ickd', .02, .02), ('classification/ickd', 'ickd', .8, .02),
    ('at', 'at', .25, 1000.), ('classification/at', 'at', 1000., 1000.)])
def test_weights_of_what_has_none_published_for_detectors(path, loss, weight, default):
    """AT keeps the paper's as its default; ICKD's is for one map of a classifier, and holds a detector back."""
    config = Config.fromfile(ROOT / f'configs/_base_/{path}.py').distill_losses[loss]
    assert list(MODELS.build(config).weights.values()) == [weight]
    assert list(MODELS.build(dict(type=config.type)).weights.values()) == [default]
