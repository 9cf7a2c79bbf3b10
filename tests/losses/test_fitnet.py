"""FitNet: the maps themselves compared."""
import math

import pytest
import torch
from maps_common import cells, gradient, kept, maps, mask, options, samples

from mmgkd import FitNetLoss
from mmgkd.functional import fitnet_loss


def oracle(student, teacher, valid=None, normalize=False):
    values = []
    for s, t in zip(cells(student, valid), cells(teacher, valid), strict=True):
        s, t = list(s.ravel()), list(t.ravel())
        if normalize:
            s, t = ([v / math.sqrt(sum(u * u for u in x)) for v in x] for x in (s, t))
            values.append(sum((a - b) ** 2 for a, b in zip(s, t, strict=True)))
        else:
            values.append(sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s))
    return sum(values) / len(values)


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('valid', [None, mask()])
def test_value(valid, normalize):
    pair = maps()
    assert fitnet_loss(*pair, valid, normalize=normalize).item() == pytest.approx(oracle(*pair, valid, normalize))


def test_value_is_torchs_mean_squared_error():
    pair = maps(dtype=torch.float32)
    torch.testing.assert_close(fitnet_loss(*pair), torch.nn.functional.mse_loss(*pair))


@pytest.mark.parametrize('normalize', [False, True])
@pytest.mark.parametrize('valid', [None, mask()])
def test_gradcheck(valid, normalize):
    student, teacher = maps()
    torch.autograd.gradcheck(lambda s: fitnet_loss(s, teacher, valid, normalize=normalize), student.requires_grad_())


@pytest.mark.parametrize('normalize', [False, True])
def test_zero_at_equality(normalize):
    student, _ = maps()
    value = fitnet_loss(student.requires_grad_(), student.detach(), normalize=normalize)
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert gradient(value, student)[0].abs().max() < 1e-12


def test_unit_vectors_know_no_scale():
    student, teacher = maps()
    want = fitnet_loss(student, teacher, normalize=True)
    torch.testing.assert_close(fitnet_loss(7 * student, 1e-3 * teacher, normalize=True), want)
    assert fitnet_loss(7 * student, teacher) > 2 * fitnet_loss(student, teacher)
    assert fitnet_loss(-teacher, teacher, normalize=True).item() == pytest.approx(4)


@pytest.mark.parametrize('dead, want', [((0, 1), 1), ((1, 0), 1), ((0, 0), 0)])
def test_a_zero_map_has_no_direction(dead, want):
    student, teacher = (factor * x for factor, x in zip(dead, maps(), strict=True))
    value = fitnet_loss(student.requires_grad_(), teacher, normalize=True)
    assert value.item() == want and (gradient(value, student)[0] == 0).all()


@pytest.mark.parametrize('normalize', [False, True])
def test_no_map_is_kept(normalize):
    student, teacher = maps((2, 16, 20, 30), dtype=torch.bfloat16)
    _, own = kept(lambda: fitnet_loss(student.requires_grad_(), teacher, normalize=normalize), student, teacher)
    assert own < 2 * 20 * 30 * 4 + 1000


def test_the_shell():
    assert options(FitNetLoss) == options(fitnet_loss)
    pair, valid = maps(), mask()
    loss = FitNetLoss(loss_weight=3., normalize=True)
    assert loss.weights == {'distance': 3.} and loss.same_shape
    got = loss([pair[0]] * 2, [pair[1]] * 2, samples())
    assert got == {'distance': [fitnet_loss(*pair, valid, normalize=True)] * 2}


@pytest.mark.parametrize('weight', [0, -1.])
def test_weight(weight):
    with pytest.raises(ValueError, match='FitNetLoss: weights must be at least 0, and one above it'):
        FitNetLoss(loss_weight=weight)
