"""The geometric graph against loops, its scale, and what it does not depend on."""
import math

import pytest
import torch
from common import LAYOUTS, boxes, data_samples, feature_maps, generator, keyword_options, randn
from mmdet.registry import MODELS
from mmengine.structures import BaseDataElement

from mmgkd.functional import geometric_graph_loss
from mmgkd.losses import GeometricGraphLoss

OPTIONS = [dict(), dict(k=2), dict(power=2), dict(power=3, k=3), dict(rectify='abs'), dict(rectify='shift', k=1),
           dict(class_mask='intra'), dict(class_mask='inter', power=2), dict(class_mask='inter', k=2)]
LABELS = torch.tensor([[0, 1, 0, 1, 2, 0], [1, 1, 1, 2, 2, 2]])
VALID = torch.tensor([[True] * 6, [True, True, True, True, False, False]])


def pair(v=6, d=4, other=3, graphs=2, seed=0):
    """Related nodes of a student (B, V, D) and a teacher, signed, in D and ``other`` dimensions."""
    teacher = randn(graphs, v, other, seed=seed)
    mix = randn(other, d, seed=seed + 1)
    return teacher @ mix + 0.4 * randn(graphs, v, d, seed=seed + 2), teacher


def graph_by_loops(x, valid, labels, rectify='relu', class_mask=None):
    v = len(x)
    w = [[0.] * v for _ in range(v)]
    for i in range(v):
        for j in range(v):
            if i != j and valid[i] and valid[j]:
                cos = sum(a * b for a, b in zip(x[i], x[j], strict=True)) / math.sqrt(
                    sum(a * a for a in x[i]) * sum(b * b for b in x[j]))
                w[i][j] = {'relu': max(cos, 0), 'abs': abs(cos), 'shift': (1 + cos) / 2}[rectify]
    degree = [max(sum(row), 0.01) for row in w]
    for i in range(v):
        for j in range(v):
            w[i][j] /= math.sqrt(degree[i] * degree[j])
            if (class_mask == 'intra' and labels[i] != labels[j]) or (class_mask == 'inter' and labels[i] == labels[j]):
                w[i][j] = 0.
    return w


def kept_by_loops(graph, k):
    """The union of each row's k largest, and of what equals the k-th."""
    v = len(graph)
    least = [sorted(row)[-k] if k < v else -1 for row in graph]
    return [[graph[i][j] >= least[i] or graph[j][i] >= least[j] for j in range(v)] for i in range(v)]


def product(a, b):
    v = range(len(a))
    return [[sum(a[i][m] * b[m][j] for m in v) for j in v] for i in v]


def by_loops(student, teacher, valid=None, labels=None, k=None, power=1, rectify='relu', class_mask=None):
    total = 0.
    for b in range(len(student)):
        mask = [True] * student.shape[1] if valid is None else valid[b].tolist()
        classes = None if labels is None else labels[b].tolist()
        graphs = [graph_by_loops(x[b].tolist(), mask, classes, rectify, class_mask) for x in (student, teacher)]
        if k is not None:
            kept = kept_by_loops(graphs[1], k)
            graphs = [[[e * keep for e, keep in zip(*rows, strict=True)] for rows in zip(g, kept, strict=True)]
                      for g in graphs]
        s, t = graphs
        for _ in range(power - 1):
            s, t = product(s, graphs[0]), product(t, graphs[1])
        total += sum((x - y) ** 2 for rows in zip(s, t, strict=True) for x, y in zip(*rows, strict=True))
    return total / len(student)


@pytest.mark.parametrize('valid', [None, VALID], ids=['whole', 'padded'])
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_it_agrees_with_loops(options, valid):
    student, teacher = pair()
    want = by_loops(student, teacher, valid, LABELS, **options)
    assert want > 1e-3
    assert geometric_graph_loss(student, teacher, valid, LABELS, **options).item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_zero_at_equality_and_for_the_teacher_at_any_scale_or_rotation(options):
    _, teacher = pair()
    rotation = torch.linalg.qr(randn(3, 3, seed=5))[0]
    scale = 0.1 + randn(2, 6, 1, seed=6).abs()
    for student in (teacher, scale * teacher @ rotation, torch.cat([teacher, 0 * teacher], -1)):
        assert geometric_graph_loss(student, teacher, VALID, LABELS, **options) < 1e-20
    assert geometric_graph_loss(teacher + 0.3, teacher, VALID, LABELS, **options) > 1e-4


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_the_order_of_nodes_and_of_graphs_does_not_matter(options):
    student, teacher = pair()
    want = geometric_graph_loss(student, teacher, VALID, LABELS, **options)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    got = geometric_graph_loss(*(x[:, order].flip(0) for x in (student, teacher, VALID, LABELS)), **options)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_gradients(options):
    student, teacher = pair(v=5)
    torch.autograd.gradcheck(lambda x: geometric_graph_loss(x, teacher, VALID[:, :5], LABELS[:, :5], **options),
                             student.requires_grad_())
    teacher.requires_grad_()
    geometric_graph_loss(student, teacher, VALID[:, :5], LABELS[:, :5], **options).backward()
    assert student.grad.any() and teacher.grad is None
    assert not student.grad[1, 4].any()  # no node


# the facts of scale

@pytest.mark.parametrize('v, want', [(8, 1.145), (32, 1.033), (128, 1.009)])
def test_the_squared_norm_is_near_one_for_any_number_of_nodes(v, want):
    """Against a graph of nothing, the loss is the squared norm."""
    x = torch.rand(20, v, 64, generator=generator())
    assert geometric_graph_loss(x, torch.zeros_like(x)).item() == pytest.approx(want, abs=3e-3)


def test_the_sum_does_not_depend_on_the_number_of_nodes():
    values = [geometric_graph_loss(*torch.rand(2, 20, v, 64, generator=generator())).item() for v in (16, 64, 128)]
    assert values == pytest.approx([3e-3] * 3, rel=0.4)  # of features that have nothing to do with each other


def test_powers_of_a_graph_tend_to_its_stationary_state():
    """Spectral radius 1: no power vanishes or explodes."""
    x = torch.rand(1, 16, 64, generator=generator())
    assert geometric_graph_loss(x, torch.zeros_like(x), power=64).item() == pytest.approx(1, abs=1e-3)


def test_two_nodes_tell_nothing():
    student, teacher = (torch.rand(3, 2, 5, generator=generator(i)).requires_grad_(i == 0) for i in (0, 1))
    loss = geometric_graph_loss(student, teacher)
    assert loss < 1e-12
    loss.backward()
    assert student.grad.abs().max() < 1e-5


def test_rectifying_changes_nothing_for_features_after_a_relu():
    student, teacher = (randn(2, 6, 9, seed=i).relu() for i in (0, 1))
    torch.testing.assert_close(geometric_graph_loss(student, teacher, rectify='relu'),
                               geometric_graph_loss(student, teacher, rectify='abs'))


def test_signed_features_are_finite():
    """Half the degrees of plain cosines would be negative."""
    student, teacher = (torch.randn(1, 32, 64, generator=generator(i)).requires_grad_(i == 0) for i in (0, 1))
    loss = geometric_graph_loss(student, teacher)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


def test_every_neighbour_is_all_edges():
    student, teacher = pair()
    want = geometric_graph_loss(student, teacher)
    for k in (6, 128):
        torch.testing.assert_close(geometric_graph_loss(student, teacher, k=k), want, rtol=0, atol=0)
    assert geometric_graph_loss(student, teacher, k=1) < want


def test_within_and_between_classes_are_all_edges():
    student, teacher = pair()
    parts = [geometric_graph_loss(student, teacher, VALID, LABELS, class_mask=m) for m in ('intra', 'inter')]
    torch.testing.assert_close(sum(parts), geometric_graph_loss(student, teacher, VALID, LABELS))
    assert min(parts) > 1e-3


# nothing, little, and nothing to tell apart

@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('shape', [(0, 6), (2, 0), (1, 0), (2, 1), (2, 2)])
def test_few_nodes_or_none(shape, options):
    student = randn(*shape, 4).requires_grad_()
    loss = geometric_graph_loss(student, randn(*shape, 3, seed=1), None, torch.zeros(shape), **options)
    loss.backward()
    assert loss.shape == () and loss.isfinite() and student.grad.isfinite().all()
    if 0 in shape or shape[1] == 1:
        assert loss == 0 and not student.grad.any()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('kind', ['zero', 'constant', 'one zero'])
def test_degenerate_nodes_are_finite(kind, side, dtype):
    student, teacher = pair()
    change = {'zero': lambda x: 0 * x, 'constant': lambda x: x[:, :1].repeat(1, 6, 1),
              'one zero': lambda x: x * (torch.arange(6) > 0).view(1, 6, 1)}[kind]
    student = (change(student) if side != 'teacher' else student).to(dtype).requires_grad_()
    teacher = (change(teacher) if side != 'student' else teacher).to(dtype)
    for options in OPTIONS:
        student.grad = None
        loss = geometric_graph_loss(student, teacher, None, LABELS, **options)
        loss.backward()
        assert loss.dtype == torch.float32 and loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(dtype):
    student, teacher = (x.to(dtype) for x in pair(d=300, other=200))
    want = geometric_graph_loss(student.float(), teacher.float(), power=2)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(geometric_graph_loss(student, teacher, power=2), want)


# errors

@pytest.mark.parametrize('shapes, given', [
    (((2, 6, 4), (2, 5, 4)), ['(2, 6, 4)', '(2, 5, 4)']), (((2, 6, 4), (1, 6, 4)), ['(1, 6, 4)']),
    (((6, 4), (6, 4)), ['(6, 4)'])])
def test_nodes_that_do_not_match(shapes, given):
    with pytest.raises(ValueError, match=r'nodes \(B, V, D\)') as error:
        geometric_graph_loss(*map(torch.zeros, shapes))
    assert all(shape in str(error.value) for shape in given)


@pytest.mark.parametrize('options, message', [
    (dict(k=0), 'k must be at least 1, got 0'), (dict(power=0), 'power must be at least 1, got 0'),
    (dict(rectify='square'), "rectify must be one of .*'shift'.*got 'square'"),
    (dict(rectify=None), 'rectify must be one of'),
    (dict(class_mask='same'), "class_mask must be one of .*'inter'.*got 'same'")])
def test_options(options, message):
    for call in (lambda: geometric_graph_loss(*pair(), None, LABELS, **options), lambda: GeometricGraphLoss(**options)):
        with pytest.raises(ValueError, match=message):
            call()


def test_other_errors():
    with pytest.raises(ValueError, match="class_mask='intra' needs the labels of nodes"):
        geometric_graph_loss(*pair(), class_mask='intra')
    with pytest.raises(ValueError, match=r'valid must be \(B, V\) = \(2, 6\), got \(2, 5\)'):
        geometric_graph_loss(*pair(), VALID[:, :5])
    for nodes in ('grid', 'channels'):
        with pytest.raises(ValueError, match="class_mask='inter' needs the labels of nodes, and these nodes have none"):
            GeometricGraphLoss(nodes=nodes, class_mask='inter')
    with pytest.raises(ValueError, match='nodes must be one of'):
        GeometricGraphLoss(nodes='boxes')
    for weight in (0, -1., float('nan')):
        with pytest.raises(ValueError, match='GeometricGraphLoss: weights must be at least 0, and one above'):
            GeometricGraphLoss(loss_weight=weight)


# the loss

def test_the_loss_hands_on_the_functions_options():
    options = keyword_options(geometric_graph_loss)
    own = keyword_options(GeometricGraphLoss.__init__)
    assert {name: own[name] for name in options} == options
    assert set(own) - set(options) == {'loss_weight', 'nodes'}
    given = dict(k=3, power=2, rectify='abs', class_mask='intra')
    assert set(given) == set(options) and GeometricGraphLoss(**given).options == given
    with pytest.raises(TypeError, match='K'):
        GeometricGraphLoss(K=3)


def test_published_weight():
    loss = MODELS.build(dict(type='GeometricGraphLoss'))
    assert loss.weights == {'edge': 25.} and not loss.same_shape and not loss.needs
    assert GeometricGraphLoss(loss_weight=3.).weights == {'edge': 3.}


def test_a_mean_over_levels():
    student, teacher = feature_maps(3), feature_maps(5, seed=4)
    levels = GeometricGraphLoss(nodes=dict(type='images', pool=False))(student, teacher)['edge']
    want = [geometric_graph_loss(s.flatten(1)[None], t.flatten(1)[None]) / 2
            for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(levels, want)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_instances_and_layouts(layout):
    student, teacher = feature_maps(3), feature_maps(5, seed=4)
    samples = data_samples(boxes(4), boxes(3, 1), labels=[torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 0])])
    loss = GeometricGraphLoss(class_mask='intra', k=3, power=2)
    want, = loss(student, teacher, samples)['edge']
    nodes, = loss.nodes(student, teacher, samples)
    torch.testing.assert_close(want, geometric_graph_loss(
        nodes.student, nodes.teacher, None, torch.tensor([[0, 1, 0, 1, 1, 0, 0]]), class_mask='intra', k=3, power=2))
    leaves = [x.requires_grad_() for x in student]
    laid, other = ([LAYOUTS[layout](x) for x in feats] for feats in (leaves, teacher))
    assert not any(x.is_contiguous() for x in laid)
    got, = loss(laid, other, samples)['edge']
    torch.testing.assert_close(got, want)
    got.backward()
    assert any(x.grad is not None and x.grad.any() for x in leaves)


@pytest.mark.parametrize('nodes', ['instances', dict(type='instances', per_image=True), dict(type='grid', size=3),
                                   dict(type='instances', pool=False), 'images', 'channels'], ids=str)
def test_every_kind_of_nodes(nodes):
    loss = GeometricGraphLoss(nodes=nodes)
    assert loss.same_shape == (nodes == 'channels')  # channel i is channel i of the other: a connector is needed
    student, teacher = feature_maps(3), feature_maps(3 if loss.same_shape else 5, seed=4)
    for x in (*student, *teacher):
        x.requires_grad_()
    samples = data_samples(boxes(4), boxes(2, 1), sizes=[(64, 96), (40, 60)])
    values = loss(student, teacher, samples)['edge']
    assert len(values) == (1 if 'instances' in str(nodes) else 2)
    sum(values).backward()
    if nodes != 'images':  # two of them, which tell nothing
        assert all(v > 0 for v in values) and any(x.grad is not None and x.grad.any() for x in student)
    assert all(x.grad is None for x in teacher)


def test_padded_nodes_are_left_out():
    student, teacher = feature_maps(3), feature_maps(5, seed=4)
    samples = data_samples(boxes(4), boxes(2, 1))
    per_image = GeometricGraphLoss(nodes=dict(type='instances', per_image=True))
    got, = per_image(student, teacher, samples)['edge']
    alone = []
    for i in range(2):
        one = [x[i:i + 1] for x in student], [x[i:i + 1] for x in teacher]
        alone += GeometricGraphLoss()(*one, samples[i:i + 1])['edge']
    torch.testing.assert_close(got, sum(alone) / 2)


@pytest.mark.parametrize('counts', [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize('per_image', [True, False])
def test_without_boxes_the_maps_are_connected_all_the_same(per_image, counts):
    student, teacher = feature_maps(3), feature_maps(5, seed=4)
    leaves = [x.requires_grad_() for x in student]
    value, = GeometricGraphLoss(nodes=dict(type='instances', per_image=per_image))(
        student, teacher, data_samples(*map(boxes, counts)))['edge']
    value.backward()
    assert value.isfinite() and any(x.grad is not None for x in leaves)
    assert all(x.grad.isfinite().all() for x in leaves if x.grad is not None)


def test_labels_of_images():
    student, teacher = feature_maps(3, images=4), feature_maps(5, images=4, seed=4)
    samples = [BaseDataElement(gt_label=torch.tensor([y])) for y in (0, 1, 1, 0)]
    loss = GeometricGraphLoss(nodes='images', class_mask='inter')
    want = [geometric_graph_loss(s.mean((2, 3))[None], t.mean((2, 3))[None], None, torch.tensor([[0, 1, 1, 0]]),
                                 class_mask='inter') / 2 for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(loss(student, teacher, samples)['edge'], want)
    with pytest.raises(ValueError, match="class_mask='inter' needs the labels"):
        loss(student, teacher)
