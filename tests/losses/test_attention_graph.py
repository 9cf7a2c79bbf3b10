"""MHGD: its graphs against loops, its heads, and what they may depend on."""
import inspect
import math

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmgkd import AttentionGraphLoss
from mmgkd.functional import attend, attention_logits, graph_kl, keep_heads, vector_distance
from mmgkd.losses.attention_estimator import AttentionEstimator

CHANNELS = (3, 5, 4)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def images(n=3, seed=0, sizes=(4, 3, 2)):
    """Maps (N, C, H, W) per level, each image with channels of its own."""
    return [torch.tensor(normal(n, c, s, s + 1, seed=seed + i) + 2 * normal(n, c, 1, 1, seed=seed + i + 20))
            for i, (c, s) in enumerate(zip(CHANNELS, sizes, strict=True))]


def trained(channels=CHANNELS, **options):
    """A loss in float64 whose heads have weights and statistics that are not their first."""
    loss = AttentionGraphLoss(**{'nodes': 'images', 'num_heads': 2, **options})
    shapes = [(c, 4, 4) for c in channels]
    loss.prepare(shapes, shapes)
    generator = torch.Generator().manual_seed(0)
    for name, x in loss.estimator.state_dict().items():
        if x.is_floating_point():  # small enough that neither tanh nor softmax saturates
            x.copy_(torch.rand(x.shape, generator=generator) + .5 if name.endswith('var') else
                    torch.randn(x.shape, generator=generator) * (.5 if '.1.' in name else 1))
    loss.estimator.trained.fill_(1)
    return loss.double()


def samples(boxes, side=64):
    """Of a batch of square images, from (K, 4) boxes of each."""
    return [DetDataSample(gt_instances=InstanceData(
        bboxes=torch.tensor(b, dtype=torch.float64).reshape(-1, 4), labels=torch.zeros(len(b), dtype=torch.long)),
        metainfo=dict(batch_input_shape=(side, side), img_shape=(side, side))) for b in boxes]


BOXES = [[[2, 3, 30, 40], [20, 8, 60, 50], [5, 5, 12, 14]], [[0, 0, 64, 64], [30, 20, 50, 60]]]


# ---- loops

def softmax(row):
    e = [math.exp(v - max(row)) for v in row]
    return [v / sum(e) for v in e]


def kl(student, teacher, tanh):
    """Per head and row, from logits (A, V, V)."""
    rows = []
    for head_s, head_t in zip(student, teacher, strict=True):
        for row_s, row_t in zip(head_s, head_t, strict=True):
            p, q = (softmax([math.tanh(v) if tanh else v for v in row]) for row in (row_s, row_t))
            rows.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    return rows


def layer(block, x):
    """A linear layer without bias and its norm in eval mode, on one vector."""
    linear, norm = block[0], block[1]
    out = [sum(float(w) * v for w, v in zip(row, x, strict=True)) for row in linear.weight]
    if isinstance(norm, torch.nn.BatchNorm1d):
        mean, var = norm.running_mean.tolist(), norm.running_var.tolist()
    else:
        m = sum(out) / len(out)
        mean, var = [m] * len(out), [sum((v - m) ** 2 for v in out) / len(out)] * len(out)
    return [(v - m) / math.sqrt(s + 1e-5) * float(g) + float(b)
            for v, m, s, g, b in zip(out, mean, var, norm.weight, norm.bias, strict=True)]


def logits(pair, front, back):
    heads = []
    queries, keys = [layer(pair.query, v) for v in back], [layer(pair.key, v) for v in front]
    width = len(queries[0]) // pair.num_heads
    for a in range(pair.num_heads):
        part = slice(a * width, (a + 1) * width)
        heads.append([[sum(x * y for x, y in zip(q[part], k[part], strict=True)) for k in keys] for q in queries])
    return heads


def vectors(student, teacher, compress):
    """Of one level, from (V, P, C), by numpy's SVD."""
    pairs = []
    for s, t in zip(student, teacher, strict=True):
        if compress == 'mean':
            pairs.append([x.sum(0) / np.linalg.norm(x.sum(0)) for x in (s, t)])
            continue
        v_t = np.linalg.svd(t)[2][0]
        v_t = v_t if (t @ v_t).sum() >= 0 else -v_t
        found = np.linalg.svd(s, full_matrices=False)[2][:4]
        cosines = [float(v @ v_t) for v in found]
        k = max(range(len(cosines)), key=lambda i: abs(cosines[i]))
        pairs.append([found[k] * math.copysign(1, cosines[k]), v_t])
    return zip(*pairs, strict=True)


@pytest.mark.parametrize('compress', ['svd', 'mean'])
@pytest.mark.parametrize('norm', ['batch', 'layer'])
@pytest.mark.parametrize('tanh, reduction', [(True, 'mean'), (True, 'sum'), (False, 'mean')])
def test_the_whole_loss_is_that_of_loops(compress, norm, tanh, reduction):
    loss = trained(compress=compress, norm=norm, tanh=tanh, reduction=reduction)
    student, teacher = images(seed=0), images(seed=10)
    found = [list(vectors(*(x.flatten(2).mT.numpy() for x in pair), compress))
             for pair in zip(student, teacher, strict=True)]
    want = []
    for pair, front, back in zip(loss.estimator.pairs, found[:-1], found[1:], strict=True):
        rows = kl(*(logits(pair, front[i], back[i]) for i in range(2)), tanh)
        want.append(sum(rows) / (len(rows) * 2 if reduction == 'mean' else 1))
    got = loss(student, teacher)
    assert list(got) == ['attention'] and min(want) > 1e-3
    torch.testing.assert_close(torch.stack(got['attention']), torch.tensor(want).double(), rtol=1e-6, atol=1e-9)


def test_the_estimate_is_that_of_loops():
    s, z = normal(2, 3, 3), normal(3, 4, seed=1)
    keep = torch.tensor([[True, False, True], [True, True, False]])
    want = [[keep[a, i].item() * sum(g * z[j, d] for j, g in enumerate(softmax(s[a, i])))
             for a in range(2) for d in range(4)] for i in range(3)]
    torch.testing.assert_close(attend(torch.tensor(s), torch.tensor(z), keep), torch.tensor(want).double())
    p, t = normal(3, 4, seed=2), normal(3, 4, seed=3)
    t = [v / math.sqrt(sum(x * x for x in v)) for v in t]
    want = sum(1 - sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(sum(a * a for a in x))
               for x, y in zip(p, t, strict=True)) / 3
    assert vector_distance(torch.tensor(p), torch.tensor(np.array(t))).item() == pytest.approx(want)


def test_about_half_of_the_heads_are_kept():
    torch.manual_seed(0)
    keep = keep_heads(8, 1000)
    assert keep.shape == (8, 1000) and keep.dtype == torch.bool
    assert .45 < keep.double().mean() < .55 and 1 <= keep.sum(0).min() and keep.sum(0).max() <= 7
    assert keep_heads(1, 50).all()


# ---- properties

@pytest.mark.parametrize('tanh', [True, False])
def test_equal_graphs_cost_nothing_others_do(tanh):
    a, b = (torch.tensor(normal(2, 4, 4, seed=i)) for i in range(2))
    assert graph_kl(a, a, tanh=tanh).abs() < 1e-15 and graph_kl(a, b, tanh=tanh) > .05
    shift = torch.tensor(normal(2, 4, 1, seed=2))
    assert tanh or graph_kl(a + shift, a, tanh=False).abs() < 1e-15  # a softmax does not see it
    # the student's graph weighs: where it has no weight, nothing is asked
    peak = torch.tensor([[[0., -30.]]]).double().expand(1, 2, 2)
    assert graph_kl(peak, torch.zeros(1, 2, 2).double(), tanh=False) == pytest.approx(math.log(2))
    assert graph_kl(torch.zeros(1, 2, 2).double(), peak, tanh=False) == pytest.approx(15 - math.log(2))


def test_an_equal_student_costs_nothing():
    maps = images()
    assert torch.stack(trained()(maps, maps)['attention']).abs().max() < 1e-12


@pytest.mark.parametrize('compress', ['svd', 'mean'])
@pytest.mark.parametrize('norm', ['batch', 'layer'])
def test_order_of_images_and_scale_of_features_do_not_matter(norm, compress):
    loss, student, teacher = trained(norm=norm, compress=compress), images(4), images(4, seed=10)
    want = loss(student, teacher)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(loss([x[order] for x in student], [x[order] for x in teacher]), want)
    torch.testing.assert_close(loss([7 * x for x in student], [x / 3 for x in teacher]), want)
    assert (loss([x[order] for x in student], teacher)['attention'][0] - want['attention'][0]).abs() > 1e-4


def test_order_of_boxes_does_not_matter_their_place_does():
    loss = trained(nodes='instances')
    student, teacher = ([torch.tensor(normal(2, c, s, s, seed=i + k)) for i, (c, s) in enumerate(
        zip(CHANNELS, (16, 8, 4), strict=True))] for k in (0, 10))
    want = loss(student, teacher, samples(BOXES))
    turned = [BOXES[0][::-1], BOXES[1][::-1]]
    torch.testing.assert_close(loss(student, teacher, samples(turned)), want)
    moved = [BOXES[0], [[0, 0, 64, 64], [10, 20, 30, 60]]]
    assert (loss(student, teacher, samples(moved))['attention'][0] - want['attention'][0]).abs() > 1e-4


def test_the_sum_grows_with_nodes_and_heads_the_mean_does_not():
    sums, means = [], []
    for v in (8, 128):
        a, b = (attention_logits(*(torch.tensor(normal(v, 8 * 16, seed=4 * k + i)) for i in range(2)), 8)
                for k in range(2))
        sums.append(graph_kl(a, b, reduction='sum').item())
        means.append(graph_kl(a, b).item())
    assert sums[1] / sums[0] == pytest.approx(16, rel=.2) and means[1] / means[0] == pytest.approx(1, rel=.2)
    assert sums[1] == pytest.approx(means[1] * 8 * 128)


def test_padding_does_not_count():
    loss, n = trained(), 2
    metainfo = dict(batch_input_shape=(32, 40), img_shape=(32, 20))
    data = [DetDataSample(metainfo=metainfo) for _ in range(n)]
    student, teacher = ([torch.tensor(normal(n, c, 32 // s, 40 // s, seed=c + k)) for c, s in zip(
        CHANNELS, (4, 8, 8), strict=True)] for k in (0, 10))
    want = loss(student, teacher, data)
    for x in (*student, *teacher):
        x[..., -(x.shape[3] // 2):] = 1e3
    torch.testing.assert_close(loss(student, teacher, data), want)
    assert (loss(student, teacher)['attention'][0] - want['attention'][0]).abs() > 1e-4


# ---- gradients

@pytest.mark.parametrize('compress', ['svd', 'mean'])
def test_gradient_reaches_the_student_only(compress):
    loss = trained(compress=compress).train()
    student, teacher = ([x.requires_grad_() for x in images(seed=k)] for k in (0, 10))
    sum(loss(student, teacher)['attention']).backward()
    assert all(x.grad.any() for x in student) and not any(x.grad is not None for x in teacher)
    assert not any(p.requires_grad or p.grad is not None for p in loss.parameters())


@pytest.mark.parametrize('compress', ['svd', 'mean'])
@pytest.mark.parametrize('norm', ['batch', 'layer'])
def test_gradcheck(compress, norm):
    loss, teacher = trained((3, 2), compress=compress, norm=norm), images(2, seed=10, sizes=(2, 2, 2))[:2]
    student = [x[:, :c].requires_grad_() for x, c in zip(images(2, sizes=(2, 2, 2))[:2], (3, 2), strict=True)]
    teacher[1] = teacher[1][:, :2]
    assert torch.autograd.gradcheck(lambda *s: loss(s, teacher)['attention'][0], student, rtol=1e-3)


def test_gradcheck_of_the_functions():
    a, b = (torch.tensor(normal(2, 3, 3, seed=i)).requires_grad_() for i in range(2))
    for tanh in (True, False):
        assert torch.autograd.gradcheck(lambda x: graph_kl(x, b, tanh=tanh), a)  # noqa: B023
    z, t = (torch.tensor(normal(3, 4, seed=i)).requires_grad_() for i in range(2, 4))
    assert torch.autograd.gradcheck(attend, (a, z))
    assert torch.autograd.gradcheck(lambda x: vector_distance(x, t), z)
    assert torch.autograd.gradcheck(lambda x, y: attention_logits(x, y, 2), (z, t))
    (graph_kl(a, b) + vector_distance(z, t)).backward()
    assert b.grad is None and t.grad is None


@pytest.mark.parametrize('compress', ['svd', 'mean'])
def test_following_the_gradient_leads_to_the_teachers_graphs(compress):
    loss, teacher = trained(compress=compress), images(6, seed=10)
    student = [x.requires_grad_() for x in images(6)]
    optimizer, values = torch.optim.Adam(student, lr=.1), []
    for _ in range(60):
        optimizer.zero_grad()
        values.append(sum(loss(student, teacher)['attention']))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < .1 * values[0]


# ---- few nodes, strange features, types

@pytest.mark.parametrize('nodes', ['images', 'instances'])
@pytest.mark.parametrize('compress', ['svd', 'mean'])
@pytest.mark.parametrize('norm', ['batch', 'layer'])
@pytest.mark.parametrize('count', [0, 1, 2])
def test_few_nodes(count, norm, compress, nodes):
    loss = trained(nodes=nodes, norm=norm, compress=compress)
    n = count if nodes == 'images' else 2
    student, teacher = ([torch.tensor(normal(n, c, 8, 8, seed=k)).requires_grad_() for c in CHANNELS] for k in range(2))
    data = samples([BOXES[0][:count], []]) if nodes == 'instances' else None
    values = loss(student, teacher, data)['attention']
    sum(values).backward()
    assert all(v.isfinite() for v in values) and (count > 1) == bool(sum(values) > 1e-6)
    assert all(x.grad is not None and x.grad.isfinite().all() for x in student)
    assert loss.estimator([torch.randn(count, c).double() for c in CHANNELS]).isfinite()


@pytest.mark.parametrize('value', [0., 2.])
@pytest.mark.parametrize('compress', ['svd', 'mean'])
@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
def test_features_that_are_zero_or_constant(side, compress, value):
    loss, student, teacher = trained(compress=compress), images(), images(seed=10)
    for name, maps in (('student', student), ('teacher', teacher)):
        if side in (name, 'both'):
            for x in maps:
                x.fill_(value)
    values = loss([x.requires_grad_() for x in student], teacher)['attention']
    sum(values).backward()
    assert all(v.isfinite() for v in values) and all(x.grad.isfinite().all() for x in student)
    assert side != 'both' or sum(values) < 1e-12


@pytest.mark.parametrize('nodes', ['images', 'instances'])
def test_half_precision_and_layouts(nodes):
    loss = trained(nodes=nodes).float()
    data = samples(BOXES) if nodes == 'instances' else None
    student, teacher = ([torch.tensor(normal(2, c, 8, 8, seed=k)).bfloat16() for c in CHANNELS] for k in range(2))
    want = loss([x.float() for x in student], [x.float() for x in teacher], data)
    laid = [x.contiguous(memory_format=torch.channels_last).requires_grad_() for x in student]
    with torch.autocast('cpu', torch.bfloat16):
        got = loss(laid, teacher, data)
    assert got['attention'][0].dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    sum(got['attention']).backward()
    assert all(x.grad.dtype == torch.bfloat16 and x.grad.isfinite().all() for x in laid)
    strided = [torch.stack([x, x], -1)[..., 0] for x in student]
    torch.testing.assert_close(loss(strided, teacher, data), want, rtol=1e-4, atol=1e-6)


def test_many_boxes_are_thinned_out_evenly():
    loss = trained(nodes='instances', max_nodes=6)
    boxes = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) * 20
    boxes[:, 2:] += 30
    maps = [torch.tensor(normal(3, c, 8, 8)) for c in CHANNELS]
    for counts in ([16, 0, 4], [2, 2, 1]):
        data = samples([part.tolist() for part in boxes[:sum(counts)].split(counts)])
        found = [student for student, _ in loss._nodes(maps, maps, data)]
        assert [x.shape for x in found] == [(min(sum(counts), 6), 49, c) for c in CHANNELS]
        want = trained(nodes='instances')._nodes(maps, maps, data)[0][0]
        index = [0, 4, 8, 11, 15, 19] if sum(counts) == 20 else range(5)
        torch.testing.assert_close(found[0], want[index])


# ---- heads

def test_the_published_heads():
    loss = AttentionGraphLoss(nodes='images')
    shapes = [(16, 8, 8), (33, 4, 4), (64, 2, 2)]
    loss.prepare(shapes, shapes)
    first, second = loss.estimator.pairs
    assert [first.query[0].weight.shape, first.key[0].weight.shape] == [(8 * 24, 33), (8 * 24, 16)]
    assert [second.query[0].weight.shape, second.key[0].weight.shape] == [(8 * 48, 64), (8 * 48, 33)]
    assert [second.value[0].weight.shape, second.predict.weight.shape] == [(48, 33), (64, 8 * 48)]
    assert first.query[0].bias is None and first.key[0].bias is None and first.predict.bias is not None
    norm = first.key[1]
    assert (norm.num_features, norm.momentum, norm.eps, norm.affine) == (8 * 24, .1, 1e-5, True)
    assert first.key[0].weight.std().item() == pytest.approx(math.sqrt(2 / (8 * 24)), rel=.1)  # by fan-out


def test_heads_are_frozen_for_ever():
    estimator = AttentionEstimator(CHANNELS)
    vectors = [torch.randn(6, c) for c in CHANNELS]

    def state():
        return [not p.requires_grad for p in estimator.parameters()], [not m.training for m in estimator.modules()]
    before = {k: v.clone() for k, v in estimator.state_dict().items()}
    for mode in (True, False):
        estimator.train(mode)
        assert all(map(all, state()))
        estimator.logits(vectors)
    with pytest.raises(KeyError), estimator.learning():
        assert not any(map(any, state()))
        estimator(vectors)
        raise KeyError
    assert all(map(all, state()))
    assert not torch.equal(before['pairs.0.key.1.running_mean'], estimator.pairs[0].key[1].running_mean)


# ---- errors

@pytest.mark.parametrize('options', [
    dict(nodes='grid'), dict(compress='svd1'), dict(norm='BN'), dict(reduction='none'), dict(gradient_rule='half'),
    dict(num_heads=0), dict(max_nodes=0), dict(estimator_epochs=0), dict(estimator_iters=0), dict(estimator_iters=1.5),
    dict(estimator_lr=-.1)], ids=str)
def test_wrong_options(options):
    (name, value), = options.items()
    with pytest.raises(ValueError, match=f'{name} must be .*{value}'):
        AttentionGraphLoss(**options)


def test_a_loss_of_no_weight():
    with pytest.raises(ValueError, match='AttentionGraphLoss: weights must be at least 0, and one above'):
        AttentionGraphLoss(loss_weight=0)


def test_misspelt_options():
    with pytest.raises(TypeError, match='head'):
        AttentionGraphLoss(head=4)
    with pytest.raises(TypeError, match='positional'):
        AttentionGraphLoss(1.)


def test_one_level_is_not_enough():
    with pytest.raises(ValueError, match='at least two, got 1'):
        AttentionGraphLoss().prepare([(4, 2, 2)], [(4, 2, 2)])


def test_heads_that_are_not_trained():
    loss = trained()
    loss.estimator.trained.fill_(0)
    with pytest.raises(RuntimeError, match='not trained yet.*PrepareLossesHook'):
        loss(images(), images())


def test_data_without_boxes():
    with pytest.raises(ValueError, match="nodes='images'"):
        trained(nodes='instances')(images(), images(), [DetDataSample()] * 3)


def test_errors_of_the_functions():
    a = torch.zeros(2, 3, 3)
    with pytest.raises(ValueError, match=r'\(2, 3, 3\) and \(2, 4, 4\)'):
        graph_kl(a, torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="reduction must be one of .*'batchmean'"):
        graph_kl(a, a, reduction='batchmean')


def test_the_module_passes_the_functions_options_on():
    options = {name: p.default for name, p in inspect.signature(graph_kl).parameters.items()
               if p.kind is p.KEYWORD_ONLY}
    own = inspect.signature(AttentionGraphLoss).parameters
    assert options == {name: own[name].default for name in options}
    assert set(AttentionGraphLoss().options) == set(options)
