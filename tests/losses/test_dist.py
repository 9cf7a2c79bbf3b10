"""DIST against its equations written in loops."""
import math

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from rows import LAYOUTS, keyword_options, logits, softmax

from mmgkd.functional import dist_terms
from mmgkd.losses import DISTLoss
from mmgkd.readings import Predictions

ACTIVATIONS = ['softmax', 'sigmoid']


def oracle(student, teacher, temperature=1., activation='softmax'):
    def table(x):
        rows = [[v / temperature for v in row] for row in x.tolist()]
        return np.array([softmax(row) if activation == 'softmax' else [1 / (1 + math.exp(-v)) for v in row]
                         for row in rows])
    p, q = table(student), table(teacher)
    rows = [np.corrcoef(p[i], q[i])[0, 1] for i in range(p.shape[0])]
    columns = [np.corrcoef(p[:, c], q[:, c])[0, 1] for c in range(p.shape[1])]
    return {'inter': temperature ** 2 * (1 - sum(rows) / len(rows)),
            'intra': temperature ** 2 * (1 - sum(columns) / len(columns))}


@pytest.mark.parametrize('temperature', [.5, 1., 4.])
@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_equation(activation, temperature):
    student, teacher = logits(5, 4)
    got = dist_terms(student, teacher, temperature=temperature, activation=activation)
    want = oracle(student, teacher, temperature, activation)
    assert got.keys() == want.keys() and got['inter'].dtype == torch.float64
    for term in want:
        assert got[term].item() == pytest.approx(want[term], rel=1e-5)  # the division is guarded by 1e-8


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_zero_when_equal_and_two_at_most(activation):
    student, teacher = logits(5, 4)
    assert all(0 <= v < 1e-6 for v in dist_terms(teacher, teacher, activation=activation).values())
    assert all(.1 < v < 2 for v in dist_terms(student, teacher, activation=activation).values())
    opposite = dist_terms(-teacher[:, :2], teacher[:, :2])  # of two classes the probabilities are exchanged
    torch.testing.assert_close(opposite['inter'], torch.tensor(2., dtype=torch.float64), rtol=1e-5, atol=0)


def test_between_rows_or_within_them():
    """Each term sees what the other does not."""
    p = torch.tensor([[.7, .2, .1], [.6, .3, .1], [.1, .2, .7]], dtype=torch.float64)
    weaker = torch.stack([row / 3 + (1 - 1 / 3) / 3 if i else row for i, row in enumerate(p)])  # towards uniform
    terms = dist_terms(weaker.log(), p.log())
    assert terms['inter'] < 1e-6 < 1e-3 < terms['intra']


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('term', ['inter', 'intra'])
def test_gradient_is_the_students(term, activation):
    student, teacher = (x.requires_grad_() for x in logits(5, 4))
    dist_terms(student, teacher, activation=activation)[term].backward()
    assert student.grad.abs().sum() > 1e-3 and teacher.grad is None


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('term', ['inter', 'intra'])
def test_gradcheck(term, activation):
    student, teacher = logits(3, 4)
    assert torch.autograd.gradcheck(lambda x: dist_terms(
        x, teacher, temperature=2., activation=activation)[term], student.requires_grad_())


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_order_of_rows_and_classes(activation):
    student, teacher = logits(5, 4)
    rows, classes = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 3, 1])
    moved = [x[rows][:, classes] for x in (student, teacher)]
    torch.testing.assert_close(dist_terms(*moved, activation=activation),
                               dist_terms(student, teacher, activation=activation))


def test_shift_of_a_row():
    student, teacher = logits(5, 4)
    torch.testing.assert_close(dist_terms(student + torch.arange(5.)[:, None], teacher), dist_terms(student, teacher))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_layouts(layout, activation):
    student, teacher = logits(6, 4)
    moved = [LAYOUTS[layout](x) for x in (student, teacher)]
    assert not all(x.is_contiguous() for x in moved)
    torch.testing.assert_close(dist_terms(*moved, activation=activation),
                               dist_terms(student, teacher, activation=activation), rtol=1e-12, atol=0)


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(activation, dtype):
    student, teacher = (x.to(dtype) for x in logits(6, 4))
    with torch.autocast('cpu', torch.bfloat16):
        got = dist_terms(student, teacher, temperature=3., activation=activation)
    want = dist_terms(student.double(), teacher.double(), temperature=3., activation=activation)
    for term, value in got.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), want[term], rtol=1e-4, atol=0)


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('rows, classes, nothing', [
    (0, 4, {'inter', 'intra'}), (1, 4, {'intra'}), (2, 4, set()), (3, 1, {'inter'}), (1, 1, {'inter', 'intra'})])
def test_few_rows_and_classes(rows, classes, nothing, activation):
    student, teacher = logits(rows, classes)
    terms = dist_terms(student.requires_grad_(), teacher, activation=activation)
    for term, value in terms.items():
        student.grad = None
        value.backward(retain_graph=True)
        assert value.isfinite() and student.grad.isfinite().all()
        if term in nothing:
            assert value == 0 and not student.grad.any()
        elif classes > 1:
            assert value > 0


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('constant', ['student', 'teacher', 'both'])
def test_rows_that_are_all_alike(constant, activation):
    """They correlate with nothing."""
    student, teacher = (x.float() for x in logits(3, 4))
    if constant != 'teacher':
        student = torch.zeros(3, 4)
    if constant != 'student':
        teacher = torch.full((3, 4), 2.)
    terms = dist_terms(student.requires_grad_(), teacher, activation=activation)
    sum(terms.values()).backward()
    assert student.grad.isfinite().all()
    for value in terms.values():
        torch.testing.assert_close(value, torch.tensor(1.), rtol=0, atol=1e-4)


@pytest.mark.parametrize('arguments, says', [
    (dict(teacher=torch.zeros(5, 3)), r'\(5, 4\) and \(5, 3\)'),
    (dict(student=torch.zeros(5, 4, 1), teacher=torch.zeros(5, 4, 1)), r'\(M, K\), got \(5, 4, 1\)'),
    (dict(temperature=0), 'temperature must be above 0, got 0'),
    (dict(activation='relu'), "activation.*'relu'"),
], ids=str)
def test_errors(arguments, says):
    with pytest.raises(ValueError, match=says):
        dist_terms(**{'student': torch.zeros(5, 4), 'teacher': torch.zeros(5, 4), **arguments})


# ---- the module

def test_options_are_the_functions():
    known = keyword_options(dist_terms)
    assert keyword_options(DISTLoss.__init__) == dict(
        inter_weight=2., intra_weight=2., temperature=known.pop('temperature'))
    assert set(known) == {'activation'}  # which the head decides


def test_module():
    student, teacher = logits(5, 4)
    loss = MODELS.build(dict(type='DISTLoss', inter_weight=3., intra_weight=0., temperature=4.))
    assert loss.weights == {'inter': 3., 'intra': 0.} and loss.needs == ('predictions',) and not loss.same_shape
    terms = loss([], [], predictions=Predictions(student, teacher, 'softmax'))
    assert terms == {term: [value] for term, value in dist_terms(student, teacher, temperature=4.).items()}


def test_module_takes_the_locations_of_objects():
    student, teacher = logits(5, 4)
    foreground = torch.tensor([True, False, True, True, False])
    terms = DISTLoss()([], [], predictions=Predictions(
        student, teacher, 'sigmoid', foreground=foreground, confidence=torch.rand(5)))
    want = dist_terms(student[foreground], teacher[foreground], activation='sigmoid')
    assert terms == {term: [value] for term, value in want.items()}


def test_module_without_a_location_of_an_object():
    student, teacher = logits(5, 4)
    terms = DISTLoss()([], [], predictions=Predictions(
        student.requires_grad_(), teacher, 'sigmoid', foreground=torch.zeros(5, dtype=torch.bool),
        confidence=torch.rand(5)))
    sum(terms['inter'] + terms['intra']).backward()
    assert student.grad is not None and not student.grad.any()


def test_module_with_all_rois():
    student, teacher = logits(5, 4)
    some = torch.tensor([True, False, True, True, False])
    terms = DISTLoss()([], [], predictions=Predictions(student, teacher, 'softmax', foreground=some))
    assert terms['inter'] == [dist_terms(student, teacher)['inter']]


def test_module_without_labels():
    student, teacher = logits(5, 4)
    with pytest.raises(ValueError, match='does not show.*KLLoss'):
        DISTLoss()([], [], predictions=Predictions(student, teacher, 'sigmoid', confidence=torch.rand(5)))


@pytest.mark.parametrize('options, says', [
    (dict(inter_weight=-1.), 'at least 0'), (dict(inter_weight=0., intra_weight=0.), 'one above it'),
    (dict(temperature=0.), 'temperature must be above 0')])
def test_bad_options(options, says):
    with pytest.raises(ValueError, match=says):
        DISTLoss(**options)
