"""HKD against its steps written as loops, on a bank and on a queue."""
import inspect
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmgkd.functional import info_nce, knn_graph, prediction_graph
from mmgkd.losses import HolisticGraphLoss
from mmgkd.losses import holistic_graph as module

C, D, K = 3, 4, 5
"""Channels of the student (the teacher has one more), dims of embeddings, classes."""
SAMPLES = 30
LABELS = torch.arange(SAMPLES) % K


# ---- the steps (a) to (k), one number after the other

def unit(v):
    length = math.sqrt(sum(x * x for x in v))
    return [x / length for x in v]


def dot(u, v):
    return sum(x * y for x, y in zip(u, v, strict=True))


def linear(layer, v):
    weight, bias = layer
    return [dot(row, v) + b for row, b in zip(weight, bias, strict=True)]


def nce(anchors, positives, negatives, temperature):
    """``negatives`` is a list per anchor."""
    total = 0
    for a, p, others in zip(anchors, positives, negatives, strict=True):
        true = math.exp(dot(a, p) / temperature)
        total -= math.log(true / (true + sum(math.exp(dot(a, v) / temperature) for v in others)))
    return total / len(anchors)


def nearest(rows, k):
    """Nb(i) of each row: itself, and the others that are nearest."""
    found = []
    for i, x in enumerate(rows):
        distance = {j: -1. if i == j else 1 - dot(x, y) / max(math.sqrt(dot(x, x) * dot(y, y)), 1e-7)
                    for j, y in enumerate(rows)}
        found.append(sorted(distance, key=distance.get)[:k])
    return found


def softmax(v):
    return [math.exp(x) / sum(math.exp(y) for y in v) for x in v]


def smoothed(layer, e, edges):
    return [unit(linear(layer, [*e[i], *(sum(e[j][c] for j in near) / len(near) for c in range(len(e[i])))]))
            for i, near in enumerate(edges)]


def layers(loss):
    """Weights and biases as lists: of E and of the convolution, for student and teacher."""
    def read(layer):
        bias = layer.bias if layer.bias is not None else torch.zeros(len(layer.weight))
        return layer.weight.tolist(), bias.tolist()
    return [(read(loss.embed[n]), read(loss.convolve[n])) for n in ('own', 'other')]


def steps(loss, features, edges_from, k):
    """e and g of both networks."""
    e, g = [], []
    for (embed, convolve), x, rows in zip(layers(loss), features, edges_from or [None] * 2, strict=True):
        e.append([unit(linear(embed, v)) for v in x])
        g.append(smoothed(convolve, e[-1], nearest(e[-1] if rows is None else [softmax(r) for r in rows], k)))
    return e, g


def both(anchors, positives, negatives, temperature, cross):
    """``negatives`` of each network."""
    return sum(nce(anchors[i], positives[1 - i], negatives[1 - i if cross else i], temperature) for i in range(2))


def bank_steps(loss, bank, features, logits, index, drawn, *, k=8, temperature=.07, published=True, cross=False,
               momentum=.9, smoothing=.75):
    """Both terms, and the bank after them; ``bank`` is a list over spaces of entries, ``drawn`` indices per sample."""
    e, g = steps(loss, features, logits, k)  # (a), (f), (g)
    few = len(index) < (8 if published else 2)

    def negatives(s):
        return [[bank[s][m] for m in row] for row in drawn]  # (b)
    last = 0 if published else 2
    old = [[bank[s][i] for i in index] for s in range(len(bank))]
    individual = both(e, old[:2], [negatives(0), negatives(1)], temperature, cross)  # (d)
    graph, after = 0, [[list(v) for v in entries] for entries in bank]
    if few and published:  # (e)
        return individual, graph, after
    if not few:
        p = [[unit([smoothing * x + (1 - smoothing) * y for x, y in zip(u, v, strict=True)])
              for u, v in zip(old[last + s], g[s], strict=True)] for s in range(2)]  # (h)
        graph = both(g, p, [negatives(last), negatives(last + 1)], temperature, cross)  # (i)
    for s, fresh in enumerate(e if published else e + g):  # (k)
        for i, v in zip(index, fresh, strict=True):
            after[s][i] = unit([momentum * x + (1 - momentum) * y for x, y in zip(bank[s][i], v, strict=True)])
    return individual, graph, after


def queue_steps(loss, queue, features, logits, labels, *, k=8, temperature=.07, published=False, cross=True, size=6):
    """Both terms; ``queue`` is a list of (label, entries per space), which is changed."""
    e, g = steps(loss, features, logits, k)
    few = len(labels) < (8 if published else 2)
    spaces = e if published else e + g
    if not (few and published):
        queue += [(y, [fresh[i] for fresh in spaces]) for i, y in enumerate(labels)]
        del queue[:-size]

    def negatives(s):
        return [[v[s] for label, v in queue if label != y] for y in labels]
    last = 0 if published else 2
    individual = both(e, e, [negatives(0), negatives(1)], temperature, cross)
    graph = 0 if few else both(g, g, [negatives(last), negatives(last + 1)], temperature, cross)
    return individual, graph


# ---- examples

def images(n, seed=0, dtype=torch.float64):
    """Maps of two levels, of which only the last counts, logits and samples of the data set."""
    g = torch.Generator().manual_seed(seed)
    def maps(c):
        return [torch.randn(n, 2, 4, 4, generator=g, dtype=dtype), torch.randn(n, c, 2, 3, generator=g, dtype=dtype)]
    logits = SimpleNamespace(**{s: 3 * torch.randn(n, K, generator=g, dtype=dtype) for s in ('student', 'teacher')})
    index = torch.randperm(SAMPLES, generator=g)[:n]
    samples = []
    for i in index.tolist():
        samples.append(DetDataSample(metainfo=dict(sample_idx=i)))
        samples[-1].set_field(LABELS[i:i + 1], 'gt_label', dtype=torch.Tensor)
    return maps(C), maps(C + 1), samples, logits, index


def boxes(counts, seed=0, dtype=torch.float64, side=64):
    """Maps of two levels of a batch of images with so many boxes, logits of the boxes, and samples."""
    g = torch.Generator().manual_seed(seed)
    def maps(c):
        return [torch.randn(len(counts), c, side // s, side // s, generator=g, dtype=dtype) for s in (4, 8)]
    samples, logits = [], dict(student=[], teacher=[])
    for n in counts:
        corner = torch.rand(n, 2, generator=g) * side / 2
        size = 4 + torch.rand(n, 2, generator=g) * (side / 2 - 4)
        sample = DetDataSample(metainfo=dict(img_shape=(side, side), batch_input_shape=(side, side)))
        sample.gt_instances = InstanceData(bboxes=torch.cat([corner, corner + size], 1),
                                           labels=torch.randint(0, K, (n,), generator=g))
        samples.append(sample)
        for rows in logits.values():
            rows.append(3 * torch.randn(n, K + 1, generator=g, dtype=dtype))
    return maps(C), maps(C + 1), samples, SimpleNamespace(**logits)


def classifier_loss(dtype=torch.float64, seed=0, **kwargs):
    torch.manual_seed(seed)
    loss = HolisticGraphLoss(**dict(dict(embed_dims=D, num_negatives=6, neighbours=3), **kwargs))
    loss.prepare([(2, 4, 4), (C, 2, 3)], [(2, 4, 4), (C + 1, 2, 3)])
    if kwargs.get('memory', 'bank') == 'bank':
        loss.before_training(SimpleNamespace(train_dataloader=SimpleNamespace(dataset=DataSet())))
    return loss.to(dtype)


def detector_loss(dtype=torch.float64, seed=0, **kwargs):
    torch.manual_seed(seed)
    loss = HolisticGraphLoss(**dict(dict(memory='queue', embed_dims=D, neighbours=3, queue_size=6), **kwargs))
    loss.prepare([(C, 16, 16), (C, 8, 8)], [(C + 1, 16, 16), (C + 1, 8, 8)])
    return loss.to(dtype)


class DataSet:
    def get_gt_labels(self):
        return LABELS.numpy()

    def __len__(self):
        return SAMPLES


def features_of(loss, student, teacher, samples):
    return [x.tolist() for x in loss._nodes(student, teacher, samples)[0]]


def value(terms):
    return {term: x.item() for term, (x,) in terms.items()}


# ---- agreement

BANK = [dict(), dict(negatives='cross'), dict(published=False), dict(published=False, negatives='own'),
        dict(edges='embedding'), dict(temperature=.5, momentum=.6, smoothing=.3), dict(neighbours=1),
        dict(neighbours=50), dict(num_negatives=40)]


@pytest.mark.parametrize('options', BANK, ids=str)
def test_a_bank_follows_the_published_steps(options):
    """Over batches of 9, of 5, which is too few, of 8, and of 1."""
    loss = classifier_loss(**options)
    bank = loss.memory.keys.double().tolist()
    told = dict(published=options.get('published', True), k=options.get('neighbours', 3),
                cross=loss.negatives == 'cross')
    told |= {k: v for k, v in options.items() if k in ('temperature', 'momentum', 'smoothing')}
    for step, n in enumerate([9, 5, 8, 1]):
        student, teacher, samples, logits, index = images(n, seed=step)
        features = [x[1].mean((2, 3)).tolist() for x in (student, teacher)]
        rows = None if options.get('edges') == 'embedding' else [logits.student.tolist(), logits.teacher.tolist()]
        drawn = loss.memory.eval().draw(index)
        loss.train()
        negatives = [[m for m, times in enumerate(row) for _ in range(int(times))] for row in drawn.tolist()]
        assert all(len(row) == options.get('num_negatives', 6) for row in negatives)
        individual, graph, bank = bank_steps(loss, bank, features, rows, index.tolist(), negatives, **told)
        got = value(loss(student, teacher, samples, **({} if rows is None else dict(predictions=logits))))
        assert got == pytest.approx(dict(individual=individual, graph=graph), rel=1e-6)
        assert np.allclose(loss.memory.keys.tolist(), bank, atol=1e-7)
    assert len(bank) == (2 if told['published'] else 4)


QUEUE = [dict(), dict(negatives='own'), dict(published=True), dict(edges='predictions'), dict(neighbours=50),
         dict(temperature=.5, queue_size=40), dict(nodes=dict(type='instances', max_per_image=3))]


@pytest.mark.parametrize('options', QUEUE, ids=str)
def test_a_queue_follows_the_same_steps_with_fresh_positives(options):
    loss, queue = detector_loss(**options), []
    told = dict(published=loss.published, k=options.get('neighbours', 3), cross=loss.negatives == 'cross',
                size=options.get('queue_size', 6), temperature=options.get('temperature', .07))
    most = 3 if 'nodes' in options else 100
    for step, counts in enumerate([(3, 2), (0, 1), (7, 4), (2, 2)]):
        student, teacher, samples, logits = boxes(counts, seed=step)
        features = features_of(loss, student, teacher, samples)
        kept = [np.linspace(0, n - 1, min(n, most)).round().astype(int) for n in counts]
        labels = [y for s, rows in zip(samples, kept, strict=True) for y in s.gt_instances.labels[rows].tolist()]
        rows = [torch.cat(x).tolist() for x in (logits.student, logits.teacher)] if 'edges' in options else None
        individual, graph = queue_steps(loss, queue, features, rows, labels, **told)
        got = value(loss(student, teacher, samples, **({} if rows is None else dict(instance_logits=logits))))
        assert got == pytest.approx(dict(individual=individual, graph=graph), rel=1e-6, abs=1e-12)


def test_a_queue_of_images():
    loss, queue = classifier_loss(memory='queue', nodes='images', queue_size=12), []
    for step, n in enumerate([9, 3]):
        student, teacher, samples, _, index = images(n, seed=step)
        features = [x[1].mean((2, 3)).tolist() for x in (student, teacher)]
        want = queue_steps(loss, queue, features, None, LABELS[index].tolist(), k=3, size=12)
        assert tuple(value(loss(student, teacher, samples)).values()) == pytest.approx(want, rel=1e-6)


def test_the_first_value_is_near_that_of_negatives_that_tell_nothing():
    """Four contrasts of about ln(M + 1) + 1 / (2 D T^2) in all: the published set-up starts at 42."""
    labels = torch.arange(20000) % 100
    torch.manual_seed(0)
    loss = HolisticGraphLoss()
    loss.prepare([(64, 8, 8)], [(256, 8, 8)])
    loss.memory.fill(labels)
    g = torch.Generator().manual_seed(1)
    maps = [[torch.rand(16, c, 2, 2, generator=g)] for c in (64, 256)]
    logits = SimpleNamespace(student=torch.randn(16, 100, generator=g), teacher=torch.randn(16, 100, generator=g))
    samples = [DetDataSample(metainfo=dict(sample_idx=i)) for i in range(16)]
    terms = value(loss(*maps, samples, predictions=logits))
    assert math.log(16385) == pytest.approx(9.70, abs=.01)
    for total in terms.values():
        assert 9.7 - .3 < total / 2 < 10.5 + .6


# ---- gradients

def parameters(loss):
    return [[*loss.embed[n].parameters()] for n in ('own', 'other')] + \
        [[*loss.convolve[n].parameters()] for n in ('own', 'other')]


@pytest.mark.parametrize('memory', ['bank', 'queue'])
def test_who_receives_a_gradient(monkeypatch, memory):
    """Of the four contrasts: the student's anchors train the student and E_S, the smoothed ones Gm_S too, the
    teacher's nothing but E_T, and Gm_T."""
    found = []

    def kept(*args, **kwargs):
        found.append(info_nce(*args, **kwargs))
        return found[-1]
    monkeypatch.setattr(module, 'info_nce', kept)
    if memory == 'bank':
        loss = classifier_loss()
        student, teacher, samples, logits, _ = images(9)
        readings = dict(predictions=logits)
    else:
        loss = detector_loss(queue_size=20)
        student, teacher, samples, logits = boxes((5, 6))
        readings = {}
    maps = [x.requires_grad_() for x in (*student, *teacher)]
    for x in vars(logits).values():
        for rows in x if isinstance(x, list) else [x]:
            rows.requires_grad_()
    loss(student, teacher, samples, **readings)
    groups = [maps[:2], maps[2:], *parameters(loss),
              [r for x in vars(logits).values() for r in (x if isinstance(x, list) else [x])]]
    table = {0: 'student E_S', 1: 'E_T', 2: 'student E_S Gm_S', 3: 'E_T Gm_T'}
    for contrast, receivers in table.items():
        for name, group in zip(('student', 'teacher', 'E_S', 'E_T', 'Gm_S', 'Gm_T', 'logits'), groups, strict=True):
            grads = torch.autograd.grad(found[contrast], group, retain_graph=True, allow_unused=True)
            reached = any(g is not None and bool(g.any()) for g in grads)
            assert reached == (name in receivers.split()), (contrast, name)


@pytest.mark.parametrize('options', [dict(), dict(published=False)], ids=str)
def test_gradient_is_that_of_finite_differences(options):
    """With the bank's entries alone as positives, which do not move with the parameters."""
    loss = classifier_loss(smoothing=1., **options).eval()
    student, teacher, samples, logits, _ = images(9)
    student = [student[0], student[1].requires_grad_()]
    wanted = [student[1], *loss.parameters()]
    def total():
        return sum(x.sum() for values in loss(student, teacher, samples, predictions=logits).values() for x in values)
    grads = torch.autograd.grad(total(), wanted)
    g = torch.Generator().manual_seed(0)
    for x, grad in zip(wanted, grads, strict=True):
        way = torch.randn(x.shape, generator=g, dtype=x.dtype)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                x += step * way
                values.append(total().item())
                x -= step * way
        assert (values[0] - values[1]) / 2e-5 == pytest.approx((grad * way).sum().item(), rel=1e-5, abs=1e-8)


def test_positives_have_no_gradient(monkeypatch):
    """A weight of the teacher's convolution is in p_T too, the positive of the student's anchors."""
    calls = []

    def watched(anchor, positive, negatives, *args, **kwargs):
        calls.append((positive, negatives))
        return info_nce(anchor, positive, negatives, *args, **kwargs)
    monkeypatch.setattr(module, 'info_nce', watched)
    loss = classifier_loss()
    student, teacher, samples, logits, _ = images(9)
    loss(student, teacher, samples, predictions=logits)
    assert len(calls) == 4 and not any(x.requires_grad for pair in calls for x in pair)


# ---- invariances, extremes, precision

@pytest.mark.parametrize('edges', ['embedding', 'predictions'])
def test_the_order_of_boxes_and_images_does_not_matter(edges):
    counts = (4, 6, 2)
    terms = []
    for order in (None, [2, 0, 1]):
        loss = detector_loss(queue_size=50, edges=edges)
        for step in range(2):
            student, teacher, samples, logits = boxes(counts, seed=step)
            if order:
                student, teacher = ([x[order] for x in maps] for maps in (student, teacher))
                samples = [samples[i] for i in order]
                for i, sample in enumerate(samples):
                    shuffle = torch.randperm(len(sample.gt_instances))
                    sample.gt_instances = sample.gt_instances[shuffle]
                    order_of = order[i]
                    for rows in vars(logits).values():
                        rows[order_of] = rows[order_of][shuffle]
                logits = SimpleNamespace(**{k: [v[i] for i in order] for k, v in vars(logits).items()})
            found = loss(student, teacher, samples, **(dict(instance_logits=logits) if loss.needs else {}))
        terms.append(value(found))
    assert terms[0] == pytest.approx(terms[1], rel=1e-9)


def test_the_scale_of_features_does_not_matter_unless_published():
    for published in (True, False):
        terms = []
        for scale in (1, 7):
            loss = detector_loss(published=published, queue_size=50)
            student, teacher, samples, _ = boxes((6, 6))
            terms.append(value(loss([scale * x for x in student], teacher, samples)))
        assert (terms[0] == pytest.approx(terms[1], rel=1e-9)) != published


def connected(loss, terms, maps):
    """Finite values and gradients, none missing."""
    total = sum(x for values in terms.values() for x in values)
    assert total.isfinite()
    total.backward()
    for p in [*loss.parameters(), *maps]:
        assert p.grad is not None and p.grad.isfinite().all()


@pytest.mark.parametrize('published', [True, False])
@pytest.mark.parametrize('counts', [(0, 0), (1, 0), (0, 1), (1, 1), (2, 0), (0,)])
def test_few_boxes(counts, published):
    loss = detector_loss(published=published)
    for step in range(3):
        student, teacher, samples, _ = boxes(counts, seed=step)
        maps = [x.requires_grad_() for x in student]
        terms = loss(student, teacher, samples)
        connected(loss, terms, maps[:1] if not sum(counts) else [])
        assert sum(counts) > 1 and not published or terms['graph'][0] == 0
        assert sum(counts) or terms['individual'][0] == 0
    assert loss.memory.count == (0 if published else 3 * sum(counts))


@pytest.mark.parametrize('published', [True, False])
@pytest.mark.parametrize('n', [0, 1, 2, 7])
def test_few_images(n, published):
    loss = classifier_loss(published=published)
    before = loss.memory.keys.clone()
    student, teacher, samples, logits, _ = images(n)
    if n == 0:
        with pytest.raises(ValueError, match='sample_idx'):
            loss(student, teacher, samples, predictions=logits)
        return
    maps = [x.requires_grad_() for x in student]
    terms = loss(student, teacher, samples, predictions=logits)
    connected(loss, terms, maps[1:])
    assert terms['individual'][0] > 0 and (terms['graph'][0] > 0) == (n >= 2 and not published)
    assert torch.equal(loss.memory.keys, before.double()) == published


def test_boxes_of_one_class_have_nothing_to_be_told_from():
    loss = detector_loss()
    student, teacher, samples, _ = boxes((4, 5))
    for sample in samples:
        sample.gt_instances.labels[:] = 2
    maps = [x.requires_grad_() for x in student]
    terms = loss(student, teacher, samples)
    assert value(terms) == dict(individual=0, graph=0)
    connected(loss, terms, maps[:1])  # no box is large enough for the second


@pytest.mark.parametrize('level', [0., 3.])
@pytest.mark.parametrize('published', [True, False])
def test_constant_features(level, published):
    loss = detector_loss(torch.float32, published=published)
    student, teacher, samples, _ = boxes((5, 6), dtype=torch.float32)
    student, teacher = ([torch.full_like(x, level) for x in maps] for maps in (student, teacher))
    maps = [x.requires_grad_() for x in student]
    terms = loss(student, teacher, samples)
    connected(loss, terms, maps[:1])
    assert maps[0].grad.abs().max() < 1e3


@pytest.mark.parametrize('memory', ['bank', 'queue'])
@pytest.mark.parametrize('form', ['channels_last', 'strided', 'bfloat16', 'autocast'])
def test_forms_of_input(memory, form):
    def run(change):
        if memory == 'bank':
            loss = classifier_loss(torch.float32)
            student, teacher, samples, logits, _ = images(9, dtype=torch.float32)
            readings = dict(predictions=logits)
        else:
            loss = detector_loss(torch.float32)
            student, teacher, samples, logits = boxes((5, 4), dtype=torch.float32)
            readings = {}
        terms = loss([change(x) for x in student], [change(x) for x in teacher], samples, **readings)
        assert all(x.dtype == torch.float32 for values in terms.values() for x in values)
        return value(terms)
    want = run(lambda x: x)
    if form == 'autocast':
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert run(lambda x: x) == want
        return
    changed = {'channels_last': lambda x: x.to(memory_format=torch.channels_last), 'bfloat16': torch.Tensor.bfloat16,
               'strided': lambda x: torch.stack([x, x], -1)[..., 0]}[form]
    # the first decimals of scores are at stake in bfloat16, and neighbours may change
    assert run(changed) == pytest.approx(want, rel=.5 if form == 'bfloat16' else 1e-5)


def test_samples_are_taken_by_their_number():
    loss = classifier_loss()
    student, teacher, samples, logits, index = images(9)
    before = loss.memory.keys.clone()
    loss(student, teacher, samples, predictions=logits)
    moved = (loss.memory.keys != before).any(-1).all(0).nonzero().flatten()
    assert moved.tolist() == sorted(index.tolist())


# ---- options

def test_defaults():
    bank, queue = HolisticGraphLoss(), HolisticGraphLoss(memory='queue')
    assert (bank.published, bank.negatives, bank.edges, bank.instances, bank.min_nodes, bank.needs) == \
        (True, 'own', 'predictions', False, 8, ('predictions',))
    assert (queue.published, queue.negatives, queue.edges, queue.instances, queue.min_nodes, queue.needs) == \
        (False, 'cross', 'embedding', True, 2, ())
    assert HolisticGraphLoss(memory='queue', edges='predictions').needs == ('instance_logits',)
    assert HolisticGraphLoss(memory='queue', nodes='images', edges='predictions').needs == ('predictions',)
    assert bank.weights == dict(individual=3., graph=3.) and not bank.same_shape
    assert (bank.memory.num_negatives, bank.memory.momentum, queue.memory.size) == (16384, .9, 4096)


def test_the_shell_has_the_defaults_of_the_functions():
    shell = inspect.signature(HolisticGraphLoss).parameters
    for function, names in ((info_nce, ['temperature']), (knn_graph, ['neighbours']),
                            (prediction_graph, ['neighbours']), (module.MemoryBank, ['num_negatives', 'momentum'])):
        for name in names:
            assert inspect.signature(function).parameters[name].default == shell[name].default
    assert shell['queue_size'].default == inspect.signature(module.InstanceQueue).parameters['size'].default
    assert all(p.kind == p.KEYWORD_ONLY for p in shell.values())


@pytest.mark.parametrize('build', [classifier_loss, lambda **kwargs: detector_loss(**kwargs)], ids=['bank', 'queue'])
@pytest.mark.parametrize('term', ['individual', 'graph'])
def test_a_term_of_weight_0_is_not_computed(build, term):
    other = {'individual': 'graph', 'graph': 'individual'}[term]
    for published in (True, False):
        loss = build(**{f'{other}_weight': 0.}, published=published, edges='embedding')
        whole = build(published=published, edges='embedding')
        if build is classifier_loss:
            student, teacher, samples, _, _ = images(9)
        else:
            student, teacher, samples, _ = boxes((5, 4))
        assert set(loss(student, teacher, samples)) == {term}
        assert set(whole(student, teacher, samples)) == {term, other}
    assert HolisticGraphLoss(graph_weight=0.).needs == ()


def test_learned_parts_start_as_published():
    torch.manual_seed(0)
    loss = HolisticGraphLoss()
    loss.prepare([(9, 1, 1), (400, 1, 1)], [(9, 1, 1), (300, 1, 1)])
    assert loss.embed['own'].weight.shape == (128, 400) and loss.embed['other'].weight.shape == (128, 300)
    for name, c in (('own', 400), ('other', 300)):
        assert loss.embed[name].weight.abs().max().item() == pytest.approx(c ** -.5, rel=.01)
        convolve = loss.convolve[name]
        assert convolve.weight.shape == (128, 256)
        assert convolve.weight.std().item() == pytest.approx(2 ** .5 * (2 / 384) ** .5, rel=.02)  # Xavier, gain sqrt 2
        assert convolve.weight.abs().max() > 3 * convolve.weight.std()  # normal, not uniform
        assert loss.embed[name].bias.any() and 0 < convolve.bias.abs().max() <= 256 ** -.5
    plain = HolisticGraphLoss(published=False)
    plain.prepare([(4, 1, 1)], [(4, 1, 1)])
    assert all(layer.bias is None for layer in [*plain.embed.values(), *plain.convolve.values()])


@pytest.mark.parametrize('options, message', [
    (dict(individual_weight=-1.), 'weights must be at least 0, and one above it'),
    (dict(individual_weight=0, graph_weight=0), 'weights must be at least 0, and one above it'),
    (dict(memory='fifo'), r"memory must be one of \('bank', 'queue'\), got 'fifo'"),
    (dict(negatives='all'), r"negatives must be one of \('own', 'cross'\), got 'all'"),
    (dict(edges='logits'), r"edges must be one of \('predictions', 'embedding'\), got 'logits'"),
    (dict(nodes='instances'), 'memory=.bank. has an entry per image'),
    (dict(nodes='grid'), "takes pooled nodes that have a class.*got 'grid'"),
    (dict(nodes=dict(type='images', pool=False)), 'takes pooled nodes'),
    (dict(memory='queue', nodes=dict(type='instances', per_image=True)), 'takes pooled nodes'),
    (dict(temperature=0), 'temperature must be above 0, got 0'), (dict(momentum=1.5), 'momentum must be from 0 to 1'),
    (dict(smoothing=-.1), 'smoothing must be from 0 to 1, got -0.1'),
    *[({name: 0}, f'{name} must be at least 1, got 0')
      for name in ('embed_dims', 'neighbours', 'num_negatives', 'queue_size')]], ids=str)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        HolisticGraphLoss(**options)


def test_an_unknown_option_is_an_error():
    with pytest.raises(TypeError, match='queue_length'):
        MODELS.build(dict(type='HolisticGraphLoss', queue_length=3))


def test_levels_that_differ_in_channels():
    loss = HolisticGraphLoss(memory='queue')
    with pytest.raises(ValueError, match=r'as many channels, got \[4, 8\] of the teacher'):
        loss.prepare([(4, 8, 8), (4, 4, 4)], [(4, 8, 8), (8, 4, 4)])


def test_missing_data():
    student, teacher, samples, logits, _ = images(9)
    loss = classifier_loss()
    for wrong in (None, [], [*samples[:8], DetDataSample()]):
        with pytest.raises(ValueError, match="memory='bank' needs data samples with sample_idx"):
            loss(student, teacher, wrong, predictions=logits)
    with pytest.raises(ValueError, match="edges='predictions' needs the reading predictions"):
        loss(student, teacher, samples)
    logits.teacher = logits.teacher[:7]
    with pytest.raises(ValueError, match='needs one of the teacher for each of the 9 nodes, got 7'):
        loss(student, teacher, samples, predictions=logits)
    empty = HolisticGraphLoss(edges='embedding', embed_dims=D)
    empty.prepare([(C, 2, 2)], [(C + 1, 2, 2)])
    with pytest.raises(RuntimeError, match='the memory bank is empty'):
        empty.double()(student, teacher, samples)
    loss = classifier_loss(memory='queue', nodes='images')
    with pytest.raises(ValueError, match='a queue of images needs data samples with one gt_label each'):
        loss(student, teacher, [DetDataSample()] * 9)
    student, teacher, samples, logits = boxes((2, 3))
    with pytest.raises(ValueError, match='edges=.predictions. needs the reading instance_logits'):
        detector_loss(edges='predictions')(student, teacher, samples)
    with pytest.raises(ValueError, match='gt_instances'):
        detector_loss()(student, teacher, None)


def test_predictions_of_more_boxes_than_are_nodes():
    """The same are left out."""
    loss = detector_loss(edges='predictions', published=True, queue_size=1000)
    student, teacher, samples, logits = boxes((150, 3))
    with torch.no_grad():
        terms = loss(student, teacher, samples, instance_logits=logits)
    assert loss.memory.count == 131 and all(x.isfinite() for values in terms.values() for x in values)
