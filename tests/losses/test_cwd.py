"""CWD: each channel as a distribution over cells."""
import math

import pytest
import torch
import torch.nn.functional as F
from maps_common import cells, gradient, kept, maps, mask, options, samples

from mmgkd import CWDLoss
from mmgkd.functional import cells as cell_module
from mmgkd.functional import cwd_loss


def softmax(values, temperature):
    e = [math.exp((v - max(values)) / temperature) for v in values]
    return [v / sum(e) for v in e]


def oracle(student, teacher, valid=None, temperature=1.):
    total = 0
    for s, t in zip(cells(student, valid), cells(teacher, valid), strict=True):
        for column_s, column_t in zip(s.T, t.T, strict=True):
            p_s, p_t = softmax(column_s, temperature), softmax(column_t, temperature)
            total += sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))
    return temperature ** 2 * total / (student.shape[0] * student.shape[1])


@pytest.mark.parametrize('temperature', [0.3, 1., 4.])
@pytest.mark.parametrize('chunk', [5, 8192])
@pytest.mark.parametrize('valid', [None, mask()])
def test_value_and_gradient(valid, chunk, temperature, monkeypatch):
    monkeypatch.setattr(cell_module, 'run_length', lambda feat: chunk)
    student, teacher = maps()
    got = cwd_loss(student, teacher, valid, temperature=temperature)
    assert got.item() == pytest.approx(oracle(student, teacher, valid, temperature), rel=1e-10)
    torch.autograd.gradcheck(
        lambda s: cwd_loss(s, teacher, valid, temperature=temperature), student.requires_grad_())


def test_value_is_torchs_divergence():
    student, teacher = (x.requires_grad_(i == 0) for i, x in enumerate(maps(dtype=torch.float32)))
    log_s, log_t = (x.flatten(2).log_softmax(-1).flatten(0, 1) for x in (student, teacher))
    want = F.kl_div(log_s, log_t, log_target=True, reduction='batchmean')
    got = cwd_loss(student, teacher)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(gradient(got, student), gradient(want, student))


@pytest.mark.parametrize('dtype, offset', [(torch.float64, 1e6), (torch.float32, 1e4)])
def test_a_constant_on_a_channel_changes_nothing(dtype, offset):
    student, teacher = (256 * x for x in maps(dtype=dtype))
    student, teacher = (x.round() / 256 for x in (student, teacher))  # so that the sum is exact
    shift = offset * torch.tensor([1, -1, 0, 3, -2]).to(dtype).view(5, 1, 1)
    torch.testing.assert_close(cwd_loss(student + shift, teacher - shift), cwd_loss(student, teacher))


def test_zero_at_equality():
    student, _ = maps(dtype=torch.float32)
    value = cwd_loss(student.requires_grad_(), student)
    assert value == 0 and (gradient(value, student)[0] == 0).all()


def test_values_without_end_of_range():
    student, teacher = (1e4 * x for x in maps(dtype=torch.float32))
    value = cwd_loss(student.requires_grad_(), teacher)
    assert value.item() == pytest.approx(cwd_loss(student.detach().double(), teacher.double()).item(), rel=1e-5)
    assert gradient(value, student)[0].isfinite().all()


def test_an_image_of_nothing_but_padding():
    student, teacher = maps()
    valid = mask()
    valid[0] = False
    value = cwd_loss(student.requires_grad_(), teacher, valid)
    torch.testing.assert_close(value, cwd_loss(student[1:], teacher[1:], valid[1:]) / 2)
    assert (gradient(value, student)[0][0] == 0).all()


def test_no_map_is_kept():
    student, teacher = maps((2, 16, 20, 30), dtype=torch.bfloat16)
    _, own = kept(lambda: cwd_loss(student.requires_grad_(), teacher), student, teacher)
    assert own < 2 * 20 * 30 * 4 + 2000


def test_the_shell():
    assert options(CWDLoss) == options(cwd_loss)
    loss = CWDLoss(loss_weight=3., temperature=2.)
    assert loss.weights == {'divergence': 3.} and loss.same_shape
    pair = maps()
    assert loss([pair[0]] * 2, [pair[1]] * 2, samples()) == {
        'divergence': [cwd_loss(*pair, mask(), temperature=2.)] * 2}


@pytest.mark.parametrize('option, message', [
    (dict(loss_weight=0), 'CWDLoss: weights must be at least 0'),
    (dict(temperature=0), 'temperature must be above 0, got 0'),
])
def test_errors(option, message):
    with pytest.raises(ValueError, match=message):
        CWDLoss(**option)
