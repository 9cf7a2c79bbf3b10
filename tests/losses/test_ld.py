"""LD against its equation written in loops, and against mmdet's own."""
import pytest
import torch
from mmdet.models.losses import KnowledgeDistillationKLDivLoss
from mmdet.registry import MODELS
from rows import LAYOUTS, keyword_options, kl, logits, softmax

from mmgkd.functional import ld_loss
from mmgkd.losses import LDLoss
from mmgkd.readings import Predictions

P, BINS = 3, 6


def oracle(student, teacher, weight=None, temperature=10.):
    total = 0
    for i in range(len(student)):
        for edge in range(4):
            s, t = ([x / temperature for x in bins[i, edge].tolist()] for bins in (student, teacher))
            w = 1. if weight is None else weight[i].item()
            total += w * temperature ** 2 * kl(softmax(t), softmax(s)) / len(s)
    return total / 4


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('temperature', [1., 10.])
def test_equation(temperature, weighted):
    student, teacher = logits(P, 4, BINS)
    weight = torch.rand(P, generator=torch.Generator().manual_seed(1)) if weighted else None
    got = ld_loss(student, teacher, weight, temperature=temperature)
    assert got.dtype == torch.float64
    assert got.item() == pytest.approx(oracle(student, teacher, weight, temperature), rel=1e-9)


def test_as_mmdet_reduces_it():
    """In its LDHead, with the published weight and temperature."""
    student, teacher = logits(P, 4, BINS)
    weight = torch.rand(P, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    theirs = KnowledgeDistillationKLDivLoss(loss_weight=0.25, T=10)(
        student.flatten(0, 1), teacher.flatten(0, 1), weight=weight[:, None].expand(-1, 4).reshape(-1), avg_factor=4.)
    torch.testing.assert_close(LDLoss().weights['bins'] * ld_loss(student, teacher, weight), theirs)


def test_zero_when_equal_and_only_then():
    student, teacher = logits(P, 4, BINS)
    assert ld_loss(teacher, teacher).abs() < 1e-12 < .01 < ld_loss(student, teacher)


def test_gradient_is_the_students():
    student, teacher = (x.requires_grad_() for x in logits(P, 4, BINS))
    weight = torch.ones(P, dtype=torch.float64, requires_grad=True)
    ld_loss(student, teacher, weight).backward()
    assert student.grad.abs().sum() > 1e-3 and teacher.grad is None and weight.grad is None


def test_gradcheck():
    student, teacher = logits(2, 4, 3)
    assert torch.autograd.gradcheck(lambda x: ld_loss(x, teacher, torch.tensor([.5, 2.])), student.requires_grad_())


def test_order_and_shifts():
    student, teacher = logits(P, 4, BINS)
    order = torch.tensor([2, 0, 1]), torch.tensor([3, 1, 0, 2]), torch.tensor([1, 0, 2, 5, 4, 3])
    moved = [x[order[0]][:, order[1]][:, :, order[2]] for x in (student, teacher)]
    torch.testing.assert_close(ld_loss(*moved), ld_loss(student, teacher))
    torch.testing.assert_close(ld_loss(student + torch.arange(4.)[:, None], teacher), ld_loss(student, teacher))


def test_a_sum_over_locations():
    """Not divided by their number, nor by their weights."""
    student, teacher = logits(P, 4, BINS)
    parts = [ld_loss(s[None], t[None]) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(ld_loss(student, teacher), sum(parts))
    torch.testing.assert_close(ld_loss(student, teacher, torch.full((P,), 2.)), 2 * sum(parts))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout):
    student, teacher = logits(P, 4, BINS)
    moved = [LAYOUTS[layout](x) for x in (student, teacher)]
    assert not all(x.is_contiguous() for x in moved)
    torch.testing.assert_close(ld_loss(*moved), ld_loss(student, teacher), rtol=1e-12, atol=0)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (x.to(dtype) for x in logits(P, 4, BINS))
    with torch.autocast('cpu', torch.bfloat16):
        got = ld_loss(student, teacher)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), ld_loss(student.double(), teacher.double()), rtol=1e-4, atol=0)


@pytest.mark.parametrize('locations', [0, 1, 2])
def test_few_locations(locations):
    student, teacher = logits(locations, 4, BINS)
    value = ld_loss(student.requires_grad_(), teacher)
    value.backward()
    assert value.isfinite() and student.grad.isfinite().all()
    assert (value > 0) == (locations > 0)


@pytest.mark.parametrize('value', [0., 1e4, -1e4])
def test_extreme_logits(value):
    student, teacher = (x.float() for x in logits(P, 4, BINS))
    student[0], teacher[1, 2, 3] = value, value
    loss = ld_loss(student.requires_grad_(), teacher)
    loss.backward()
    assert loss.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize('arguments, says', [
    (dict(teacher=torch.zeros(5, 4, 3)), r'\(5, 4, 6\) and \(5, 4, 3\)'),
    (dict(student=torch.zeros(5, 24), teacher=torch.zeros(5, 24)), r'\(P, 4, R \+ 1\), got \(5, 24\)'),
    (dict(weight=torch.ones(4)), r'weight must be \(P,\) = \(5,\), got \(4,\)'),
    (dict(temperature=0), 'temperature must be above 0, got 0'),
], ids=str)
def test_errors(arguments, says):
    with pytest.raises(ValueError, match=says):
        ld_loss(**{'student': torch.zeros(5, 4, 6), 'teacher': torch.zeros(5, 4, 6), **arguments})


# ---- the module

def test_options_are_the_functions():
    assert keyword_options(LDLoss.__init__) == dict(loss_weight=0.25, **keyword_options(ld_loss))


def predictions(foreground, rows=5, **changes):
    (student, teacher), bins = logits(rows, 4), logits(rows, 4, BINS, seed=1)
    return Predictions(student, teacher, 'sigmoid', **{
        'foreground': foreground, 'student_bins': bins[0], 'teacher_bins': bins[1], **changes})


def test_module():
    foreground = torch.tensor([True, False, True, True, False])
    given = predictions(foreground)
    loss = MODELS.build(dict(type='LDLoss', loss_weight=3., temperature=5.))
    assert loss.weights == {'bins': 3.} and loss.needs == ('predictions',) and not loss.same_shape
    value, = loss([], [], predictions=given)['bins']
    weight = torch.tensor([max(1 / (1 + torch.exp(-x)) for x in given.student[i]) for i in (0, 2, 3)])
    want = oracle(given.student_bins[foreground], given.teacher_bins[foreground], weight, 5.)
    assert value.item() == pytest.approx(want, rel=1e-6)


def test_module_without_a_location_of_an_object():
    given = predictions(torch.zeros(5, dtype=torch.bool))
    given.student_bins.requires_grad_()
    value, = LDLoss()([], [], predictions=given)['bins']
    value.backward()
    assert value == 0 and given.student_bins.grad is not None


@pytest.mark.parametrize('missing', ['student_bins', 'foreground'])
def test_module_with_other_heads(missing):
    with pytest.raises(ValueError, match='GFLHead.*reg_max'):
        LDLoss()([], [], predictions=predictions(torch.ones(5, dtype=torch.bool))._replace(**{missing: None}))


@pytest.mark.parametrize('options, says', [
    (dict(loss_weight=0.), 'weights must be at least 0'), (dict(temperature=-1.), 'temperature must be above 0')])
def test_bad_options(options, says):
    with pytest.raises(ValueError, match=says):
        LDLoss(**options)
