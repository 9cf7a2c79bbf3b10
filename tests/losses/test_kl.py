"""KD against its equation written in loops."""
import math

import pytest
import torch
from mmdet.registry import MODELS
from rows import LAYOUTS, keyword_options, kl, logits, softmax

from mmgkd.functional import kl_loss
from mmgkd.losses import KLLoss
from mmgkd.readings import Predictions

ACTIVATIONS = ['softmax', 'sigmoid']


def oracle(student, teacher, weight=None, temperature=1., activation='softmax'):
    total, weights = 0, [1.] * len(student) if weight is None else weight.tolist()
    for s, t, w in zip(student.tolist(), teacher.tolist(), weights, strict=True):
        s, t = ([x / temperature for x in row] for row in (s, t))
        if activation == 'softmax':
            total += w * kl(softmax(t), softmax(s))
        else:
            for a, b in zip(s, t, strict=True):
                p, q = (1 / (1 + math.exp(-x)) for x in (b, a))
                total += w * kl([p, 1 - p], [q, 1 - q])
    return temperature ** 2 * total / sum(weights)


@pytest.mark.parametrize('weighted', [False, True], ids=['mean', 'weighted'])
@pytest.mark.parametrize('temperature', [.5, 1., 4.])
@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_equation(activation, temperature, weighted):
    student, teacher = logits(5, 4)
    weight = torch.rand(5, generator=torch.Generator().manual_seed(1)) if weighted else None
    got = kl_loss(student, teacher, weight, temperature=temperature, activation=activation)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(oracle(student, teacher, weight, temperature, activation), rel=1e-9)


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_zero_when_equal_and_only_then(activation):
    student, teacher = logits(5, 4)
    assert kl_loss(teacher, teacher, activation=activation).abs() < 1e-15
    assert kl_loss(student, teacher, activation=activation) > .1


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_gradient_is_the_difference_of_probabilities_and_the_students_alone(activation):
    student, teacher = (x.requires_grad_() for x in logits(5, 4))
    weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
    kl_loss(student, teacher, weight, temperature=3., activation=activation).backward()
    p, q = ((x / 3).softmax(1) if activation == 'softmax' else (x / 3).sigmoid() for x in (student, teacher))
    torch.testing.assert_close(student.grad, 3 * (p - q) / 5)
    assert teacher.grad is None and weight.grad is None


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('weight', [None, torch.tensor([.2, 0., 1.])])
def test_gradcheck(activation, weight):
    student, teacher = logits(3, 4)
    assert torch.autograd.gradcheck(lambda x: kl_loss(
        x, teacher, weight, temperature=2., activation=activation), student.requires_grad_())


def test_hot_softmax_compares_centred_logits():
    """The reason for the factor: gradients keep their size, whatever the temperature (Hinton et al., section 2)."""
    student, teacher = logits(5, 4)
    d = student - teacher
    limit = (d - d.mean(1, keepdim=True)).square().sum(1).mean() / (2 * 4)
    torch.testing.assert_close(kl_loss(student, teacher, temperature=1e4), limit, rtol=1e-3, atol=0)


@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_order_of_rows_and_classes(activation):
    student, teacher = logits(5, 4)
    want = kl_loss(student, teacher, activation=activation)
    rows, classes = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([2, 0, 3, 1])
    moved = (x[rows][:, classes] for x in (student, teacher))
    torch.testing.assert_close(kl_loss(*moved, activation=activation), want)


def test_shift_of_a_row():
    student, teacher = logits(5, 4)
    shifted = student + torch.arange(5.)[:, None]
    torch.testing.assert_close(kl_loss(shifted, teacher), kl_loss(student, teacher))
    assert not torch.isclose(kl_loss(shifted, teacher, activation='sigmoid'),
                             kl_loss(student, teacher, activation='sigmoid'))


def test_rows_without_weight_do_not_count():
    student, teacher = logits(5, 4)
    weight = torch.tensor([1., 1., 0., 0., 0.])
    torch.testing.assert_close(kl_loss(student, teacher, weight), kl_loss(student[:2], teacher[:2]))
    torch.testing.assert_close(kl_loss(student, teacher, 7 * weight), kl_loss(student, teacher, weight))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('activation', ACTIVATIONS)
def test_layouts(layout, activation):
    student, teacher = logits(6, 4)
    moved = [LAYOUTS[layout](x) for x in (student, teacher)]
    assert not all(x.is_contiguous() for x in moved)
    assert torch.equal(kl_loss(*moved, activation=activation), kl_loss(student, teacher, activation=activation))


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(activation, dtype):
    student, teacher = (x.to(dtype) for x in logits(6, 4))
    with torch.autocast('cpu', torch.bfloat16):
        got = kl_loss(student, teacher, temperature=3., activation=activation)
    assert got.dtype == torch.float32
    want = kl_loss(student.double(), teacher.double(), temperature=3., activation=activation)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('rows', [0, 1, 2])
@pytest.mark.parametrize('weighted', [False, True])
def test_few_rows(rows, weighted, activation):
    student, teacher = logits(rows, 4)
    weight = torch.zeros(rows) if weighted else None
    value = kl_loss(student.requires_grad_(), teacher, weight, activation=activation)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()
    if weighted or not rows:
        assert value == 0 and not student.grad.any()


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('value', [0., 1e4, -1e4])
def test_extreme_logits(activation, value):
    student, teacher = (x.float() for x in logits(3, 4))
    student[0], teacher[1, 2] = value, value
    loss = kl_loss(student.requires_grad_(), teacher, activation=activation)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('arguments, says', [
    (dict(teacher=torch.zeros(5, 3)), r'\(5, 4\) and \(5, 3\)'),
    (dict(teacher=torch.zeros(4, 4)), r'\(5, 4\) and \(4, 4\)'),
    (dict(student=torch.zeros(5), teacher=torch.zeros(5)), r'\(M, K\), got \(5,\)'),
    (dict(weight=torch.ones(4)), r'weight must be \(M,\) = \(5,\), got \(4,\)'),
    (dict(temperature=0), 'temperature must be above 0, got 0'),
    (dict(temperature=-1.), 'temperature must be above 0'),
    (dict(activation='relu'), "activation.*'relu'"),
], ids=str)
def test_errors(arguments, says):
    with pytest.raises(ValueError, match=says):
        kl_loss(**{'student': torch.zeros(5, 4), 'teacher': torch.zeros(5, 4), **arguments})


# ---- the module

def test_options_are_the_functions():
    known = keyword_options(kl_loss)
    assert keyword_options(KLLoss.__init__) == dict(loss_weight=1., temperature=known.pop('temperature'))
    assert set(known) == {'activation'}  # which the head decides


@pytest.mark.parametrize('activation', ACTIVATIONS)
@pytest.mark.parametrize('weighted', [False, True], ids=['RoIs', 'locations'])
def test_module(activation, weighted):
    student, teacher = logits(5, 4)
    confidence = torch.rand(5, generator=torch.Generator().manual_seed(1)) if weighted else None
    loss = MODELS.build(dict(type='KLLoss', loss_weight=3., temperature=4.))
    assert loss.weights == {'kl': 3.} and loss.needs == ('predictions',) and not loss.same_shape
    assert not list(loss.parameters())
    terms = loss([], [], predictions=Predictions(student, teacher, activation, confidence=confidence))
    assert list(terms) == ['kl'] and len(terms['kl']) == 1
    assert torch.equal(terms['kl'][0], kl_loss(student, teacher, confidence, temperature=4., activation=activation))


@pytest.mark.parametrize('options, says', [
    (dict(loss_weight=0.), 'weights must be at least 0'), (dict(temperature=0.), 'temperature must be above 0')])
def test_bad_options(options, says):
    with pytest.raises(ValueError, match=says):
        KLLoss(**options)


def test_misspelt_option():
    with pytest.raises(TypeError, match='tau'):
        KLLoss(tau=4.)
