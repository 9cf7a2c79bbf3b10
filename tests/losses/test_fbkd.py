"""FBKD: distances of attended maps, of their means, and of the relations between cells."""
import math

import numpy as np
import pytest
import torch
from maps_common import SHAPE, cells, gradient, kept, maps, mask, options, samples
from torch import nn

from mmgkd import FBKDLoss
from mmgkd.functional import euclidean_distance, mutual_focus, non_local, standardize_channels
from mmgkd.losses.fbkd import NonLocal

TERMS = ('feature', 'channel', 'spatial', 'relation')


def prepared(levels=1, wake=True, **kwargs):
    """With its zero-initialised parts set to something, if woken."""
    torch.manual_seed(0)
    loss = FBKDLoss(strides=(2,), reductions=(2,), **kwargs)
    loss.prepare([SHAPE[1:]] * levels, [SHAPE[1:]] * levels)
    if wake:
        for module in loss.modules():
            if isinstance(module, NonLocal):
                nn.init.normal_(module.scale)
                nn.init.normal_(module.bias)
    return loss.double()


def numpy(x):
    return x.detach().numpy()


def root_of_sum(values):
    return math.sqrt(sum(v * v for v in values))


def focus(cell, temperature=0.5):
    energy = [sum(abs(v) for v in row) / len(row) / temperature for row in cell]
    e = [math.exp(v - max(energy)) for v in energy]
    return [len(e) * v / sum(e) for v in e]


def linear(layer, vector):
    return numpy(layer.weight).reshape(layer.weight.shape[0], -1) @ vector + numpy(layer.bias)


# ---- functions

def pairs(query, key, value, valid, stride):
    """Each cell's mean over pooled cells, pair by pair, of one image (D, H, W)."""
    d, h, w = query.shape
    pooled = []
    for y in range(0, h - h % stride, stride):
        for x in range(0, w - w % stride, stride):
            window = [(b, a) for b in range(y, y + stride) for a in range(x, x + stride)
                      if valid is None or valid[b, a]]
            if window:
                pooled.append([np.array([max(m[c, b, a] for b, a in window) for c in range(d)])
                               for m in (key, value)])
    out = np.zeros_like(query)
    for y in range(h):
        for x in range(w):
            out[:, y, x] = sum((query[:, y, x] @ k) * v for k, v in pooled) / len(pooled)
    return out


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('valid', [None, mask()])
def test_non_local_is_a_mean_over_pairs(valid, stride):
    (query, key), (value, _) = maps(), maps(seed=1)
    got = non_local(query, key, value, valid, stride=stride)
    for i in range(2):
        want = pairs(*(numpy(x[i]) for x in (query, key, value)), None if valid is None else valid[i], stride)
        np.testing.assert_allclose(numpy(got[i]), want, rtol=1e-10)


def test_non_local_of_a_map_smaller_than_its_window():
    (query, key), (value, _) = maps((1, 5, 1, 3)), maps((1, 5, 1, 3), seed=1)
    want = key.amax((2, 3), keepdim=True), value.amax((2, 3), keepdim=True)
    torch.testing.assert_close(non_local(query, key, value, stride=8),
                               (query * want[0]).sum(1, keepdim=True) * want[1])


@pytest.mark.parametrize('valid', [None, mask()])
def test_non_local_gradient(valid):
    given = [x.requires_grad_() for x in (*maps((2, 2, 4, 6)), maps((2, 2, 4, 6), seed=1)[0])]
    torch.autograd.gradcheck(lambda *x: non_local(*x, valid, stride=2), given)


def test_pairs_are_never_made():
    given = [x.requires_grad_() for x in (*maps((1, 2, 64, 64)), maps((1, 2, 64, 64), seed=1)[0])]
    _, own = kept(lambda: non_local(*given), *given)
    assert own < 100 * 64 * 64 * 8 < (64 * 64) ** 2


def test_standardised_channels_are_batch_norm_in_training():
    feat, _ = maps()
    torch.testing.assert_close(standardize_channels(feat), nn.BatchNorm2d(5).double()(feat))
    valid = mask()
    rows = torch.tensor(np.concatenate(cells(feat, valid)))
    got = standardize_channels(feat, valid).permute(0, 2, 3, 1)[valid]
    torch.testing.assert_close(got, nn.BatchNorm1d(5).double()(rows))
    torch.autograd.gradcheck(lambda x: standardize_channels(x, valid), feat.requires_grad_())


def test_a_single_cell_is_standardised_to_zero():
    feat = torch.full((1, 3, 1, 1), 5.).requires_grad_()
    value = standardize_channels(feat)
    assert (value == 0).all() and (gradient(value.sum(), feat)[0] == 0).all()


def test_distance():
    (x, y), weight = maps(), torch.rand(2, 24, generator=torch.Generator().manual_seed(0)).double()
    want = root_of_sum(math.sqrt(w) * (a - b) for i in range(2) for p, w in enumerate(weight[i].tolist())
                       for a, b in zip(x[i].flatten(1)[:, p].tolist(), y[i].flatten(1)[:, p].tolist(), strict=True))
    assert euclidean_distance(x, y, weight).item() == pytest.approx(want)
    torch.autograd.gradcheck(lambda *z: euclidean_distance(*z, weight), (x.requires_grad_(), y.requires_grad_()))


def test_the_gradient_of_no_distance_is_zero():
    x, _ = maps()
    value = euclidean_distance(x.requires_grad_(), x.detach(), torch.ones(2, 24).double())
    assert value == 0 and (gradient(value, x)[0] == 0).all()


@pytest.mark.parametrize('valid', [None, mask()])
def test_focus_is_the_mean_of_both(valid):
    student, teacher = maps()
    got = mutual_focus(student.requires_grad_(), teacher, valid, temperature=0.3)
    assert not got.requires_grad
    for i, both in enumerate(zip(cells(student, valid), cells(teacher, valid), strict=True)):
        want = np.mean([focus(cell, 0.3) for cell in both], 0)
        np.testing.assert_allclose(numpy(got[i] if valid is None else got[i][valid[i].flatten()]), want)


# ---- terms

def oracle(loss, student, teacher, valid=None):
    parts = loss.levels[0]
    images = list(zip(cells(student, valid), cells(teacher, valid), strict=True))
    feature, channel, spatial = [], [], []
    for i, (s, t) in enumerate(images):
        look = [(a + b) / 2 for a, b in zip(focus(s), focus(t), strict=True)]
        feature += [math.sqrt(a) * v for a, row_s, row_t in zip(look, s, t, strict=True)
                    for v in linear(parts['feature'].adapt, row_s) - row_t]
        channel += list(linear(parts['channel'].adapt, s.mean(0)) - t.mean(0))
        weight, bias = numpy(parts['spatial'].adapt.weight)[0, 0], parts['spatial'].adapt.bias.item()
        mean_s, mean_t = (numpy(x[i]).mean(0) for x in (student, teacher))
        h, w = mean_s.shape
        counts = np.ones((h, w), bool) if valid is None else valid[i].numpy()
        for y in range(h):
            for x in range(w):
                if counts[y, x]:
                    spatial.append(bias - mean_t[y, x] + sum(
                        weight[dy + 1, dx + 1] * mean_s[y + dy, x + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)
                        if 0 <= y + dy < h and 0 <= x + dx < w and counts[y + dy, x + dx]))
    related = [related_cells(block, x, valid) for block, x in (
        (parts['relation'].own, student), (parts['relation'].other, teacher))]
    relation = [v for s, t in zip(*related, strict=True) for v in linear(parts['relation'].adapt, s) - t]
    return {term: root_of_sum(values) for term, values in
            dict(feature=feature, channel=channel, spatial=spatial, relation=relation).items()}


def related_cells(block, feat, valid):
    """The cells that count of all images, each with what the non-local block adds."""
    rows, added = [], []
    for i, image in enumerate(numpy(feat)):
        counts = None if valid is None else valid[i].numpy()
        c, h, w = image.shape
        maps_of = [np.stack([linear(conv, image[:, y, x]) for y in range(h) for x in range(w)], -1).reshape(-1, h, w)
                   for conv in (block.query, block.key, block.value)]
        mixed = pairs(*maps_of, counts, block.stride)
        where = [(y, x) for y in range(h) for x in range(w) if counts is None or counts[y, x]]
        added += [numpy(block.expand.weight)[..., 0, 0] @ mixed[:, y, x] for y, x in where]
        rows += [image[:, y, x] for y, x in where]
    added = np.array(added)
    added = (added - added.mean(0)) / np.sqrt(added.var(0) + 1e-5)
    return np.array(rows) + added * numpy(block.scale).ravel() + numpy(block.bias).ravel()


@pytest.mark.parametrize('padded', [False, True])
def test_values(padded):
    loss, (student, teacher) = prepared(), maps()
    got = loss([student], [teacher], samples() if padded else None)
    want = oracle(loss, student, teacher, mask() if padded else None)
    assert {term: value.item() for term, (value,) in got.items()} == pytest.approx(want, rel=1e-8)


@pytest.mark.parametrize('term', TERMS)
def test_gradcheck(term, monkeypatch):
    loss, (student, teacher) = prepared(**{f'{t}_weight': float(t == term) for t in TERMS}), maps()
    look = mutual_focus(student, teacher)  # has no gradient, and finite differences would see one
    monkeypatch.setattr('mmgkd.losses.fbkd.mutual_focus', lambda *_, **__: look)
    torch.autograd.gradcheck(lambda s: loss([s], [teacher])[term][0], student.requires_grad_(), atol=1e-4)


def test_all_parts_learn_and_the_teacher_does_not():
    loss, (student, teacher) = prepared(2), maps()
    values = loss([student.requires_grad_()] * 2, [teacher.requires_grad_()] * 2, samples())
    sum(v for value in values.values() for v in value).backward()
    assert teacher.grad is None and student.grad.abs().max() > 1e-4
    for name, p in loss.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 1e-9, name


def test_a_block_adds_nothing_at_first_and_learns_all_the_same():
    torch.manual_seed(0)
    block, (feat, other) = NonLocal(5, 2, 2).double(), maps()
    assert torch.equal(block(feat), feat)
    euclidean_distance(block(feat), other, torch.ones(2, 24).double()).backward()
    assert block.scale.grad.abs().min() > 0 and block.bias.grad.abs().min() > 0


def test_initialisation():
    torch.manual_seed(0)
    block = NonLocal(256, 4, 2)
    for conv in (block.query, block.key, block.value):
        assert conv.weight.shape[:2] == (64, 256) and not conv.bias.any()
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert block.expand.bias is None and not block.scale.any() and not block.bias.any()
    assert block.expand.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)


def test_norms_are_over_the_batch():
    """As published: of two equal images it is the root of two times that of one."""
    loss, (student, teacher) = prepared(), maps((1, 5, 4, 6))
    one, two = (loss([student.repeat(n, 1, 1, 1)], [teacher.repeat(n, 1, 1, 1)]) for n in (1, 2))
    for term in TERMS:
        assert two[term][0].item() == pytest.approx(2 ** 0.5 * one[term][0].item())


def test_no_distance_has_no_gradient_that_is_not_finite():
    loss, (student, teacher) = prepared(wake=False), maps()
    for module in loss.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.zeros_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    values = loss([student.requires_grad_()], [0 * teacher])
    assert all(value == 0 for value, in values.values())
    sum(value for value, in values.values()).backward()
    assert (student.grad == 0).all() and all((p.grad == 0).all() for p in loss.parameters())


# ---- the shell

def test_the_shell():
    assert options(FBKDLoss, beside=('strides', 'reductions')) == options(mutual_focus)
    loss = FBKDLoss()
    assert loss.weights == dict(feature=7e-5, channel=4e-3, spatial=4e-3, relation=7e-5) and loss.same_shape


def test_the_last_stride_and_reduction_are_for_all_further_levels():
    loss = FBKDLoss(strides=(8, 4), reductions=(4, 2))
    loss.prepare([(8, 4, 4)] * 4, [(8, 4, 4)] * 4)
    blocks = [level['relation'].own for level in loss.levels]
    assert [block.stride for block in blocks] == [8, 4, 4, 4]
    assert [len(block.query.weight) for block in blocks] == [2, 4, 4, 4]


@pytest.mark.parametrize('term', TERMS)
def test_terms_that_weigh_nothing_have_no_parts(term):
    loss = prepared(**{f'{term}_weight': 0.})
    student, teacher = maps()
    assert set(loss([student], [teacher])) == set(loss.levels[0]) == set(TERMS) - {term}


@pytest.mark.parametrize('option, message', [
    (dict(relation_weight=-1.), 'FBKDLoss: weights must be at least 0'),
    (dict(temperature=0), 'temperature must be above 0, got 0'),
    (dict(strides=(2, 0)), r'strides must be at least 1, and one at least, got \(2, 0\)'),
    (dict(reductions=()), r'reductions must be at least 1, and one at least, got \(\)'),
])
def test_errors(option, message):
    with pytest.raises(ValueError, match=message):
        FBKDLoss(**option)


def test_a_loss_that_is_not_prepared():
    student, teacher = maps()
    with pytest.raises(RuntimeError, match='FBKDLoss has learned parts for 0 levels and got 1'):
        FBKDLoss()([student], [teacher])
