"""SP against loops, its scale, and what it does not depend on."""
import math

import pytest
import torch
from common import LAYOUTS, boxes, data_samples, feature_maps, generator, keyword_options, randn
from mmdet.registry import MODELS

from mmgkd.functional import similarity_preserving_loss
from mmgkd.losses import SimilarityPreservingLoss

VALID = torch.tensor([[True] * 6, [True, True, False, True, True, False]])


def pair(v=6, d=4, other=3, graphs=2, seed=0):
    """Related nodes of a student (B, V, D) and a teacher, in D and ``other`` dimensions."""
    teacher = randn(graphs, v, other, seed=seed)
    return teacher @ randn(other, d, seed=seed + 1) + 0.4 * randn(graphs, v, d, seed=seed + 2), teacher


def rows_by_loops(x):
    g = [[sum(p * q for p, q in zip(a, b, strict=True)) for b in x] for a in x]
    return [[e / math.sqrt(sum(f * f for f in row)) for e in row] for row in g]


def by_loops(student, teacher, valid=None):
    total = 0.
    for i in range(len(student)):
        s, t = (rows_by_loops([row for k, row in enumerate(x[i].tolist()) if valid is None or valid[i, k]])
                for x in (student, teacher))
        total += sum((p - q) ** 2 for a, b in zip(s, t, strict=True) for p, q in zip(a, b, strict=True)) / len(s) ** 2
    return total / len(student)


@pytest.mark.parametrize('valid', [None, VALID], ids=['whole', 'padded'])
def test_it_agrees_with_loops(valid):
    student, teacher = pair()
    want = by_loops(student, teacher, valid)
    assert want > 1e-2
    assert similarity_preserving_loss(student, teacher, valid).item() == pytest.approx(want, rel=1e-9)


def test_zero_for_a_teacher_that_is_turned_or_scaled():
    _, teacher = pair()
    rotation = torch.linalg.qr(randn(3, 3, seed=5))[0]
    for student in (teacher, 7 * teacher @ rotation, torch.cat([teacher, 0 * teacher], -1)):
        assert similarity_preserving_loss(student, teacher, VALID) < 1e-20
    for student in (teacher + 1, (1 + randn(2, 6, 1).abs()) * teacher):  # neither a shift nor a factor per node
        assert similarity_preserving_loss(student, teacher) > 1e-4


def test_the_order_of_nodes_and_of_graphs_does_not_matter():
    student, teacher = pair()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    torch.testing.assert_close(similarity_preserving_loss(*(x[:, order].flip(0) for x in (student, teacher, VALID))),
                               similarity_preserving_loss(student, teacher, VALID))


def test_scale():
    """Rows of length 1: orthogonal ones differ by 2 each, so unlike nodes by 2 / V."""
    for v in (8, 64):
        eye = torch.eye(v).unsqueeze(0)
        shifted = torch.ones(1, v, v)  # rows of 1 / sqrt(V)
        assert similarity_preserving_loss(eye, shifted).item() == pytest.approx((2 - 2 / math.sqrt(v)) / v)
        unrelated = similarity_preserving_loss(*torch.randn(2, 8, v, 4, generator=generator())).item()
        assert 0.3 / v < unrelated < 2 / v


def test_gradients():
    student, teacher = pair(v=5)
    torch.autograd.gradcheck(lambda x: similarity_preserving_loss(x, teacher, VALID[:, :5]), student.requires_grad_())
    teacher.requires_grad_()
    similarity_preserving_loss(student, teacher, VALID[:, :5]).backward()
    assert student.grad.any() and teacher.grad is None and not student.grad[1, 2].any()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_autocast_changes_nothing(dtype):
    student, teacher = (x.to(dtype) for x in pair(d=300, other=200))
    want = similarity_preserving_loss(student.float(), teacher.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(similarity_preserving_loss(student, teacher), want)


@pytest.mark.parametrize('shape', [(0, 6), (2, 0), (1, 0), (2, 1), (2, 2)])
def test_few_nodes_or_none(shape):
    student = randn(*shape, 4).requires_grad_()
    value = similarity_preserving_loss(student, randn(*shape, 3, seed=1))
    value.backward()
    assert value.shape == () and value.isfinite() and student.grad.isfinite().all()
    if shape != (2, 2):
        assert value < 1e-20


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('kind', ['zero', 'constant', 'one zero'])
def test_degenerate_nodes_are_finite(kind, side, dtype):
    student, teacher = pair()
    change = {'zero': lambda x: 0 * x, 'constant': lambda x: x[:, :1].repeat(1, 6, 1),
              'one zero': lambda x: x * (torch.arange(6) > 0).view(1, 6, 1)}[kind]
    student = (change(student) if side != 'teacher' else student).to(dtype).requires_grad_()
    teacher = (change(teacher) if side != 'student' else teacher).to(dtype)
    value = similarity_preserving_loss(student, teacher)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and student.grad.isfinite().all()


def test_errors():
    with pytest.raises(ValueError, match=r'nodes \(B, V, D\) .*\(2, 6, 4\) and \(2, 5, 4\)'):
        similarity_preserving_loss(torch.zeros(2, 6, 4), torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r'valid must be \(B, V\)'):
        similarity_preserving_loss(*pair(), VALID[:1])
    for weight in (0, -1.):
        with pytest.raises(ValueError, match='SimilarityPreservingLoss: weights must be at least 0, and one above'):
            SimilarityPreservingLoss(loss_weight=weight)
    with pytest.raises(ValueError, match='nodes must be one of'):
        SimilarityPreservingLoss(nodes='boxes')


# the loss

def test_options_and_published_weight():
    loss = MODELS.build(dict(type='SimilarityPreservingLoss'))
    assert loss.weights == {'similarity': 3000.} and not loss.same_shape and not loss.needs
    assert set(keyword_options(SimilarityPreservingLoss.__init__)) == {'loss_weight', 'nodes'}
    assert not keyword_options(similarity_preserving_loss)


def test_a_sum_over_levels():
    student, teacher = feature_maps(3, images=4), feature_maps(5, images=4, seed=4)
    got = SimilarityPreservingLoss(nodes=dict(type='images', pool=False))(student, teacher)['similarity']
    torch.testing.assert_close(got, [similarity_preserving_loss(s.flatten(1)[None], t.flatten(1)[None])
                                     for s, t in zip(student, teacher, strict=True)])


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout):
    student, teacher = feature_maps(3), feature_maps(5, seed=4)
    samples = data_samples(boxes(4), boxes(3, 1))
    for nodes in ('instances', 'grid', dict(type='images', pool=False)):
        loss, leaves = SimilarityPreservingLoss(nodes=nodes), [x.detach().requires_grad_() for x in student]
        want = loss(student, teacher, samples)['similarity']
        got = loss(*([LAYOUTS[layout](x) for x in feats] for feats in (leaves, teacher)), samples)['similarity']
        torch.testing.assert_close([v.detach() for v in got], want)
        sum(got).backward()
        assert any(x.grad is not None and x.grad.any() for x in leaves)


@pytest.mark.parametrize('nodes', ['instances', dict(type='instances', per_image=True), dict(type='grid', size=3),
                                   dict(type='instances', pool=False), 'images', 'channels'], ids=str)
def test_every_kind_of_nodes(nodes):
    loss = SimilarityPreservingLoss(nodes=nodes)
    assert loss.same_shape == (nodes == 'channels')
    student, teacher = feature_maps(3), feature_maps(3 if loss.same_shape else 5, seed=4)
    for x in (*student, *teacher):
        x.requires_grad_()
    samples = data_samples(boxes(4), boxes(2, 1), sizes=[(64, 96), (40, 60)])
    values = loss(student, teacher, samples)['similarity']
    assert len(values) == (1 if 'instances' in str(nodes) else 2) and all(v > 0 for v in values)
    sum(values).backward()
    assert any(x.grad is not None and x.grad.any() for x in student)
    assert all(x.grad is None for x in teacher)


@pytest.mark.parametrize('per_image', [True, False])
def test_without_boxes_the_maps_are_connected_all_the_same(per_image):
    student, teacher = feature_maps(3), feature_maps(5, seed=4)
    leaves = [x.requires_grad_() for x in student]
    value, = SimilarityPreservingLoss(nodes=dict(type='instances', per_image=per_image))(
        student, teacher, data_samples(boxes(0), boxes(0)))['similarity']
    value.backward()
    assert value == 0 and all(x.grad is not None and not x.grad.any() for x in leaves)
