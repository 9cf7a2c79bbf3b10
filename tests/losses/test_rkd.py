"""RKD against loops over pairs and triples, and what it does not depend on."""
import math

import pytest
import torch
from common import LAYOUTS, boxes, data_samples, feature_maps, keyword_options, randn
from mmdet.registry import MODELS

from mmgkd.functional import rkd_terms
from mmgkd.losses import RKDLoss

VALID = torch.tensor([[True] * 6, [True, True, False, True, True, False]])


def pair(v=6, d=4, other=3, graphs=2, seed=0):
    """Related nodes of a student (B, V, D) and a teacher, in D and ``other`` dimensions."""
    teacher = randn(graphs, v, other, seed=seed)
    return teacher @ randn(other, d, seed=seed + 1) + 0.4 * randn(graphs, v, d, seed=seed + 2), teacher


def huber(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def minus(a, b):
    return [x - y for x, y in zip(a, b, strict=True)]


def length(a):
    return math.sqrt(sum(x * x for x in a))


def distances(x):
    d = [[length(minus(a, b)) for b in x] for a in x]
    above = [e for row in d for e in row if e > 0]
    return [[e / (sum(above) / len(above)) for e in row] for row in d]


def cosine_at(a, b, c):
    """Of the angle at a, by the unit vectors to b and c."""
    u, w = minus(b, a), minus(c, a)
    if not (length(u) and length(w)):
        return 0.
    return sum(x * y for x, y in zip(u, w, strict=True)) / (length(u) * length(w))


def by_loops(student, teacher, valid=None, unit_norm=False):
    terms = dict(distance=0., angle=0.)
    for i in range(len(student)):
        sides = []
        for x in (student[i].tolist(), teacher[i].tolist()):
            x = [row for k, row in enumerate(x) if valid is None or valid[i, k]]
            sides.append([[e / length(row) for e in row] for row in x] if unit_norm else x)
        s, t = sides
        v = range(len(s))
        d_s, d_t = distances(s), distances(t)
        terms['distance'] += sum(huber(d_s[a][b] - d_t[a][b]) for a in v for b in v) / len(s) ** 2
        terms['angle'] += sum(huber(cosine_at(s[a], s[b], s[c]) - cosine_at(t[a], t[b], t[c]))
                              for a in v for b in v for c in v) / len(s) ** 3
    return {term: value / len(student) for term, value in terms.items()}


@pytest.mark.parametrize('valid', [None, VALID], ids=['whole', 'padded'])
@pytest.mark.parametrize('unit_norm', [False, True])
@pytest.mark.parametrize('scale', [1, 6])  # with differences above 1, too
def test_terms_agree_with_loops(scale, unit_norm, valid):
    student, teacher = pair()
    student = student * torch.tensor([scale, 1, 1, 1, 1, 1]).view(6, 1)
    want = by_loops(student, teacher, valid, unit_norm)
    got = rkd_terms(student, teacher, valid, unit_norm=unit_norm)
    assert set(got) == set(want) and min(want.values()) > 1e-3
    for term, value in want.items():
        assert got[term].item() == pytest.approx(value, rel=1e-9), term


@pytest.mark.parametrize('terms', [('distance',), ('angle',)])
def test_a_term_alone(terms):
    every = rkd_terms(*pair())
    some = rkd_terms(*pair(), terms=terms)
    assert set(some) == set(terms) and all(torch.equal(some[t], every[t]) for t in terms)


@pytest.mark.parametrize('unit_norm', [False, True])
def test_zero_for_a_teacher_that_is_moved_turned_or_scaled(unit_norm):
    _, teacher = pair()
    rotation = torch.linalg.qr(randn(3, 3, seed=5))[0]
    students = [teacher, 7 * teacher @ rotation, torch.cat([teacher, 0 * teacher], -1)]
    for student in students if unit_norm else [*students, 0.2 * teacher + randn(3)]:
        assert max(rkd_terms(student, teacher, VALID, unit_norm=unit_norm).values()) < 1e-20
    per_node = rkd_terms((1 + randn(2, 6, 1).abs()) * teacher, teacher, unit_norm=unit_norm)
    assert (max(per_node.values()) < 1e-20) == unit_norm
    assert min(rkd_terms(teacher.square(), teacher, unit_norm=unit_norm).values()) > 1e-3


def test_the_order_of_nodes_and_of_graphs_does_not_matter():
    student, teacher = pair()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(rkd_terms(*(x[:, order].flip(0) for x in (student, teacher, VALID))),
                               rkd_terms(student, teacher, VALID))


@pytest.mark.parametrize('unit_norm', [False, True])
@pytest.mark.parametrize('term', ['distance', 'angle'])
def test_gradients(term, unit_norm):
    student, teacher = pair(v=5)
    valid = VALID[:, :5]
    torch.autograd.gradcheck(lambda x: rkd_terms(x, teacher, valid, unit_norm=unit_norm)[term],
                             student.requires_grad_())
    teacher.requires_grad_()
    rkd_terms(student, teacher, valid, unit_norm=unit_norm)[term].backward()
    assert student.grad.any() and teacher.grad is None and not student.grad[1, 2].any()


def test_more_nodes_than_wanted():
    student, teacher = pair(v=9)
    index = [0, 3, 5, 8]  # evenly spread: 2.67 and 5.33 are rounded
    got = rkd_terms(student, teacher, max_nodes=4)
    torch.testing.assert_close(got['angle'], rkd_terms(student[:, index], teacher[:, index])['angle'])
    torch.testing.assert_close(got['distance'], rkd_terms(student, teacher)['distance'])
    valid = torch.tensor([[True] * 9, [True] * 5 + [False] * 4])
    got = rkd_terms(student, teacher, valid, max_nodes=4)['angle']
    torch.testing.assert_close(got, rkd_terms(student[:, index], teacher[:, index], valid[:, index])['angle'])
    torch.testing.assert_close(rkd_terms(student, teacher, max_nodes=9), rkd_terms(student, teacher))


def test_memory_goes_with_the_cube_of_max_nodes_and_not_with_the_features():
    student, teacher, kept = torch.randn(1, 40, 3000, requires_grad=True), torch.randn(1, 40, 3000), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        rkd_terms(student, teacher, max_nodes=10)
    sizes = {t.data_ptr(): t.numel() for t in kept}
    assert max(sizes.values()) == student.numel() and 10 ** 3 in sizes.values()
    assert sum(sizes.values()) < 2 * student.numel() + 40 * 40 ** 2 + 10 * 10 ** 3  # pairs of features: 40 times that


@pytest.mark.parametrize('offset', [0, 1e3])
def test_float32_is_accurate_where_the_mean_dwarfs_the_distances(offset):
    student, teacher = (x.float() + offset for x in pair(v=12, d=500, other=300))
    exact = rkd_terms(student.double(), teacher.double())
    for term, value in rkd_terms(student, teacher).items():
        assert value.item() == pytest.approx(exact[term].item(), rel=1e-4), term


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(dtype):
    student, teacher = (x.to(dtype) for x in pair(d=300, other=200))
    want = rkd_terms(student.float(), teacher.float(), unit_norm=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert rkd_terms(student, teacher, unit_norm=True) == want


# nothing, little, and nothing to tell apart

@pytest.mark.parametrize('unit_norm', [False, True])
@pytest.mark.parametrize('shape', [(0, 6), (2, 0), (1, 0), (2, 1), (2, 2)])
def test_few_nodes_or_none(shape, unit_norm):
    student = randn(*shape, 4).requires_grad_()
    for term, value in rkd_terms(student, randn(*shape, 3, seed=1), unit_norm=unit_norm).items():
        gradient, = torch.autograd.grad(value, student, retain_graph=True)
        assert value.shape == () and gradient.isfinite().all()
        assert value.item() == pytest.approx(0, abs=1e-12), term  # two nodes have a distance of 1


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('kind', ['zero', 'constant', 'one zero', 'pairs'])
@pytest.mark.parametrize('unit_norm', [False, True])
def test_degenerate_nodes_are_finite(unit_norm, kind, side, dtype):
    student, teacher = pair()
    change = {'zero': lambda x: 0 * x, 'constant': lambda x: x[:, :1].repeat(1, 6, 1),
              'one zero': lambda x: x * (torch.arange(6) > 0).view(1, 6, 1),
              'pairs': lambda x: x[:, :3].repeat(1, 2, 1)}[kind]
    student = (change(student) if side != 'teacher' else student).to(dtype).requires_grad_()
    teacher = (change(teacher) if side != 'student' else teacher).to(dtype)
    for value in rkd_terms(student, teacher, unit_norm=unit_norm).values():
        gradient, = torch.autograd.grad(value, student, retain_graph=True)
        assert value.dtype == torch.float32 and value.isfinite() and gradient.isfinite().all()


def test_nodes_that_coincide_have_no_angle():
    """Their distance is not among those that the mean is of, as in the loops."""
    student, teacher = pair(graphs=1)
    student = torch.cat([student[:, :4], student[:, :2]], 1)
    want = by_loops(student, teacher)
    for term, value in rkd_terms(student, teacher).items():
        assert value.item() == pytest.approx(want[term], rel=1e-9)


# errors

@pytest.mark.parametrize('shapes', [((2, 6, 4), (2, 5, 4)), ((2, 6, 4), (1, 6, 4)), ((6, 4), (6, 4))])
def test_nodes_that_do_not_match(shapes):
    with pytest.raises(ValueError, match=r'nodes \(B, V, D\)') as error:
        rkd_terms(*map(torch.zeros, shapes))
    assert all(str(shape) in str(error.value) for shape in shapes)


def test_other_errors():
    for terms in ('angle', ('distance', 'angles')):
        with pytest.raises(ValueError, match=r"terms must be a sequence of \('distance', 'angle'\), got"):
            rkd_terms(*pair(), terms=terms)
    for call in (lambda: rkd_terms(*pair(), max_nodes=2), lambda: RKDLoss(max_nodes=2)):
        with pytest.raises(ValueError, match='max_nodes must be at least 3.*got 2'):
            call()
    with pytest.raises(ValueError, match=r'valid must be \(B, V\) = \(2, 6\)'):
        rkd_terms(*pair(), VALID[:1])
    for weights in (dict(distance_weight=-1.), dict(angle_weight=-1.), dict(distance_weight=0., angle_weight=0.)):
        with pytest.raises(ValueError, match='RKDLoss: weights must be at least 0, and one above it'):
            RKDLoss(**weights)
    with pytest.raises(ValueError, match='nodes must be one of'):
        RKDLoss(nodes='boxes')


# the loss

def test_the_loss_hands_on_the_functions_options():
    options, own = keyword_options(rkd_terms), keyword_options(RKDLoss.__init__)
    assert set(own) == set(options) - {'terms'} | {'distance_weight', 'angle_weight', 'nodes'}
    assert all(own[name] == options[name] for name in options if name != 'terms')
    given = dict(unit_norm=True, max_nodes=9)
    assert RKDLoss(**given).options == dict(given, terms=('distance', 'angle'))
    assert RKDLoss(distance_weight=0.).options['terms'] == ('angle',)


def test_published_weights():
    loss = MODELS.build(dict(type='RKDLoss'))
    assert loss.weights == {'distance': 25., 'angle': 50.} and not loss.same_shape and not loss.needs


def test_a_mean_over_levels():
    student, teacher = feature_maps(3, images=4), feature_maps(5, images=4, seed=4)
    got = RKDLoss(nodes='images')(student, teacher)
    levels = [rkd_terms(s.mean((2, 3))[None], t.mean((2, 3))[None]) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(got, {term: [x[term] / 2 for x in levels] for term in ('distance', 'angle')})


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout):
    student, teacher = feature_maps(3), feature_maps(5, seed=4)
    samples, loss = data_samples(boxes(4), boxes(3, 1)), RKDLoss()
    want = loss(student, teacher, samples)
    leaves = [x.requires_grad_() for x in student]
    got = loss(*([LAYOUTS[layout](x) for x in feats] for feats in (leaves, teacher)), samples)
    torch.testing.assert_close({t: [v.detach() for v in x] for t, x in got.items()}, want)
    sum(sum(got.values(), [])).backward()
    assert any(x.grad is not None and x.grad.any() for x in leaves)


@pytest.mark.parametrize('nodes', ['instances', dict(type='instances', per_image=True), dict(type='grid', size=3),
                                   dict(type='instances', pool=False), 'images', 'channels'], ids=str)
def test_every_kind_of_nodes(nodes):
    loss = RKDLoss(nodes=nodes)
    assert loss.same_shape == (nodes == 'channels')
    student, teacher = feature_maps(3, images=3), feature_maps(3 if loss.same_shape else 5, images=3, seed=4)
    for x in (*student, *teacher):
        x.requires_grad_()
    samples = data_samples(boxes(4), boxes(2, 1), boxes(3, 2), sizes=[(64, 96), (40, 60), (64, 30)])
    terms = loss(student, teacher, samples)
    assert [len(values) for values in terms.values()] == [1 if 'instances' in str(nodes) else 2] * 2
    assert all(v > 0 for values in terms.values() for v in values)
    sum(sum(terms.values(), [])).backward()
    assert any(x.grad is not None and x.grad.any() for x in student)
    assert all(x.grad is None for x in teacher)


@pytest.mark.parametrize('counts', [(0, 0), (1, 0)])
@pytest.mark.parametrize('per_image', [True, False])
def test_without_boxes_the_maps_are_connected_all_the_same(per_image, counts):
    student, teacher = feature_maps(3), feature_maps(5, seed=4)
    leaves = [x.requires_grad_() for x in student]
    terms = RKDLoss(nodes=dict(type='instances', per_image=per_image))(
        student, teacher, data_samples(*map(boxes, counts)))
    for value, in terms.values():
        assert value == 0
        value.backward(retain_graph=True)
    assert any(x.grad is not None for x in leaves)
    assert not any(x.grad.any() for x in leaves if x.grad is not None)
