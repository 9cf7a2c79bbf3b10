"""ICKD: the correlations between the channels of a map."""
import math

import pytest
import torch
from maps_common import cells, gradient, kept, maps, mask, options, samples

from mmgkd import ICKDLoss
from mmgkd.functional import ickd_loss


def rows(cell):
    """The Gram matrix of the channels, each row over its length."""
    c = cell.shape[1]
    gram = [[sum(a * b for a, b in zip(cell[:, i], cell[:, j], strict=True)) for j in range(c)] for i in range(c)]
    return [[v / math.sqrt(sum(u * u for u in row)) if any(row) else 0. for v in row] for row in gram]


def oracle(student, teacher, valid=None):
    total = 0
    for s, t in zip(cells(student, valid), cells(teacher, valid), strict=True):
        for row_s, row_t in zip(rows(s), rows(t), strict=True):
            total += sum((a - b) ** 2 for a, b in zip(row_s, row_t, strict=True)) / s.shape[1]
    return total / len(student)


@pytest.mark.parametrize('valid', [None, mask()])
def test_value_and_gradient(valid):
    student, teacher = maps()
    assert ickd_loss(student, teacher, valid).item() == pytest.approx(oracle(student, teacher, valid), rel=1e-12)
    torch.autograd.gradcheck(lambda s: ickd_loss(s, teacher, valid), student.requires_grad_())


def test_invariances():
    student, teacher = maps()
    want = ickd_loss(student, teacher)
    torch.testing.assert_close(ickd_loss(-1e4 * student, 1e-4 * teacher), want)
    torch.testing.assert_close(ickd_loss(student.flip(1), teacher.flip(1)), want)
    torch.testing.assert_close(ickd_loss(student.flip(2, 3), teacher), want)  # never cell by cell
    scale = torch.tensor([1., 3, 0.3, 2, 5]).double().view(5, 1, 1)
    assert (ickd_loss(scale * student, teacher) - want).abs() > 0.1 * want


@pytest.mark.parametrize('scale', [1e-12, 1e-6, 1e6])
def test_squares_stay_in_range(scale):
    student, teacher = maps(dtype=torch.float32)
    torch.testing.assert_close(ickd_loss(scale * student, teacher), ickd_loss(student, teacher))


def test_zero_at_equality():
    student, _ = maps()
    value = ickd_loss(student.requires_grad_(), student)
    assert value == 0 and (gradient(value, student)[0] == 0).all()


@pytest.mark.parametrize('side', [0, 1, (0, 1)])
@pytest.mark.parametrize('channels', [[2], [0, 1, 2, 3, 4]])
def test_channels_without_activation(channels, side):
    pair = maps(dtype=torch.float32)
    for i in [side] if isinstance(side, int) else side:
        pair[i][:, channels] = 0
    got = ickd_loss(pair[0].requires_grad_(), pair[1])
    assert got.item() == pytest.approx(oracle(*pair), rel=1e-5)
    found, = gradient(got, pair[0])
    assert found.isfinite().all() and found.abs().max() < 1


def test_nothing_but_graphs_is_kept():
    student, teacher = maps((2, 16, 40, 50), dtype=torch.bfloat16)
    _, own = kept(lambda: ickd_loss(student.requires_grad_(), teacher), student, teacher)
    assert own < 2 * 40 * 50 * 4 + 20 * 2 * 16 * 16 * 4 < 2 * student.numel()


def test_the_shell():
    assert options(ICKDLoss) == options(ickd_loss) == {}
    loss = ICKDLoss(loss_weight=3.)
    assert loss.weights == {'correlation': 3.} and loss.same_shape
    pair = maps()
    assert loss([pair[0]] * 2, [pair[1]] * 2, samples()) == {'correlation': [ickd_loss(*pair, mask())] * 2}
    with pytest.raises(ValueError, match='ICKDLoss: weights must be at least 0'):
        ICKDLoss(loss_weight=-1.)
