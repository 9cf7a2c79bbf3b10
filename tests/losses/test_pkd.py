"""PKD: half the squared distance of standardised maps, which is one minus their correlation."""
import statistics

import numpy as np
import pytest
import torch
from maps_common import cells, gradient, kept, maps, mask, options, samples

from mmgkd import PKDLoss
from mmgkd.functional import pkd_loss


def standardised(rows):
    """Each column less its mean, over its standard deviation, with n - 1; zero where constant."""
    columns = []
    for column in rows.T:
        mean, deviation = statistics.fmean(column), statistics.stdev(column)
        columns.append([(v - mean) / deviation if deviation else 0. for v in column])
    return np.array(columns)


def oracle(student, teacher, valid=None):
    s, t = (standardised(np.concatenate(cells(x, valid))) for x in (student, teacher))
    return 0.5 * float(np.mean((s - t) ** 2))


@pytest.mark.parametrize('valid', [None, mask()])
def test_value_and_gradient(valid):
    student, teacher = maps()
    assert pkd_loss(student, teacher, valid).item() == pytest.approx(oracle(student, teacher, valid), rel=1e-12)
    torch.autograd.gradcheck(lambda s: pkd_loss(s, teacher, valid), student.requires_grad_())


@pytest.mark.parametrize('valid', [None, mask()])
def test_it_is_one_minus_the_correlation(valid):
    """Summed over levels, (1 - r)(n - 1) / n, a mean over channels."""
    levels = [maps(), maps(seed=1)]
    want = 0
    for pair in levels:
        s, t = (np.concatenate(cells(x, valid)) for x in pair)
        r = [np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)]
        want += (1 - np.mean(r)) * (len(s) - 1) / len(s)
    got = PKDLoss()(*zip(*levels, strict=True), samples() if valid is not None else None)['correlation']
    assert sum(got).item() == pytest.approx(want, rel=1e-12)


def test_statistics_are_over_the_batch():
    student, teacher = maps()
    together = pkd_loss(student, teacher)
    moved = pkd_loss(student + torch.tensor([0., 5.]).view(2, 1, 1, 1), teacher)  # one image against the other
    assert (together - moved).abs() > 0.1
    order = torch.randperm(2 * 24, generator=torch.Generator().manual_seed(0))
    shuffled = [x.transpose(0, 1).flatten(1)[:, order].view(5, 2, 4, 6).transpose(0, 1) for x in (student, teacher)]
    torch.testing.assert_close(pkd_loss(*shuffled), together)


def test_invariances():
    student, teacher = maps()
    want = pkd_loss(student, teacher)
    scale = torch.tensor([1., 3e3, 1e-2, 2, 5]).double().view(5, 1, 1)
    torch.testing.assert_close(pkd_loss(scale * student + 4, scale.flip(0) * teacher - 7), want)
    torch.testing.assert_close(pkd_loss(student.flip(1), teacher.flip(1)), want)
    assert pkd_loss(student.flip(1), teacher) > want
    torch.testing.assert_close(pkd_loss(-3 * teacher, teacher).item(), 2 * 47 / 48)


def test_zero_at_equality():
    student, _ = maps()
    value = pkd_loss(student.requires_grad_(), 2 * student)
    assert value.item() == pytest.approx(0, abs=1e-12) and gradient(value, student)[0].abs().max() < 1e-12


@pytest.mark.parametrize('side', [0, 1, (0, 1)])
@pytest.mark.parametrize('value', [0, 3.3, -1e3])
def test_a_constant_channel_is_standardised_to_zero(value, side):
    pair = maps(dtype=torch.float32)
    for i in [side] if isinstance(side, int) else side:
        pair[i][:, 2] = value
    want = oracle(*pair)
    got = pkd_loss(pair[0].requires_grad_(), pair[1])
    assert got.item() == pytest.approx(want, rel=1e-5)
    found, = gradient(got, pair[0])
    assert (found[:, 2] == 0).all() and found[:, :2].abs().max() > 1e-4


def test_one_cell_has_no_deviation():
    student, teacher = maps((1, 5, 1, 1))
    value = pkd_loss(student.requires_grad_(), teacher)
    assert value == 0 and (gradient(value, student)[0] == 0).all()


def test_no_map_is_kept():
    student, teacher = maps((2, 16, 20, 30), dtype=torch.bfloat16)
    _, own = kept(lambda: pkd_loss(student.requires_grad_(), teacher), student, teacher)
    assert own < 2 * 20 * 30 * 4 + 2000


def test_the_shell():
    assert options(PKDLoss) == options(pkd_loss) == {}
    loss = PKDLoss(loss_weight=3.)
    assert loss.weights == {'correlation': 3.} and loss.same_shape
    pair = maps()
    assert loss([pair[0]] * 2, [pair[1]] * 2, samples()) == {'correlation': [pkd_loss(*pair, mask())] * 2}
    with pytest.raises(ValueError, match='PKDLoss: weights must be at least 0'):
        PKDLoss(loss_weight=-1.)
