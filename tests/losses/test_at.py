"""AT: where the energy of a map lies."""
import math

import pytest
import torch
from maps_common import cells, gradient, kept, maps, mask, options, samples

from mmgkd import AttentionTransferLoss
from mmgkd.functional import attention_transfer_loss


def oracle(student, teacher, valid=None, power=2, reduction='mean'):
    values = []
    for pair in zip(cells(student, valid), cells(teacher, valid), strict=True):
        units = []
        for cell in pair:
            energy = [sum(abs(v) ** power for v in row) / len(row) for row in cell]
            length = math.sqrt(sum(e * e for e in energy))
            units.append([e / length for e in energy])
        distance = sum((a - b) ** 2 for a, b in zip(*units, strict=True))
        values.append(distance / len(units[0]) if reduction == 'mean' else distance)
    return sum(values) / len(values)


OPTIONS = [dict(power=p, reduction=r) for p in (1, 2, 3.5) for r in ('mean', 'sum')]


@pytest.mark.parametrize('option', OPTIONS, ids=str)
@pytest.mark.parametrize('valid', [None, mask()])
def test_value_and_gradient(valid, option):
    student, teacher = maps()
    got = attention_transfer_loss(student, teacher, valid, **option)
    assert got.item() == pytest.approx(oracle(student, teacher, valid, **option))
    torch.autograd.gradcheck(lambda s: attention_transfer_loss(s, teacher, valid, **option), student.requires_grad_())


def test_channels_may_differ():
    student, teacher = maps()
    got = attention_transfer_loss(student[:, :2], teacher)
    assert got.item() == pytest.approx(oracle(student[:, :2], teacher))


def test_invariances():
    student, teacher = maps()
    want = attention_transfer_loss(student, teacher)
    torch.testing.assert_close(attention_transfer_loss(-3 * student, 1e3 * teacher), want)
    torch.testing.assert_close(attention_transfer_loss(student.flip(1), teacher), want)
    assert (attention_transfer_loss(student.flip(2), teacher) - want).abs() > 0.1 * want


def test_zero_at_equality():
    student, _ = maps()
    value = attention_transfer_loss(student.requires_grad_(), student)
    assert value == 0 and (gradient(value, student)[0] == 0).all()


def test_the_sum_does_not_depend_on_the_size_of_the_maps_and_the_mean_does():
    student, teacher = maps((1, 4, 5, 5))
    larger = [x.repeat_interleave(3, 2).repeat_interleave(3, 3) for x in (student, teacher)]
    total, mean = ([attention_transfer_loss(*pair, reduction=r).item() for pair in ((student, teacher), larger)]
                   for r in ('sum', 'mean'))
    assert total[0] == pytest.approx(total[1]) and mean[0] == pytest.approx(9 * mean[1])


@pytest.mark.parametrize('power', [1., 1.5, 2.])
@pytest.mark.parametrize('dead', [(0, 1), (1, 0), (0, 0)])
def test_zero_maps(dead, power):
    student, teacher = (factor * x for factor, x in zip(dead, maps(dtype=torch.float32), strict=True))
    value = attention_transfer_loss(student.requires_grad_(), teacher, power=power, reduction='sum')
    assert value.item() == pytest.approx(sum(dead)) and gradient(value, student)[0].isfinite().all()


def test_no_map_is_kept():
    student, teacher = maps((2, 64, 20, 30), dtype=torch.bfloat16)
    _, own = kept(lambda: attention_transfer_loss(student.requires_grad_(), teacher), student, teacher)
    assert own < student.numel() / 2


def test_the_shell():
    assert options(AttentionTransferLoss) == options(attention_transfer_loss)
    loss = AttentionTransferLoss(loss_weight=3., power=3., reduction='sum')
    assert loss.weights == {'attention': 3.} and not loss.same_shape
    pair = maps()
    want = attention_transfer_loss(*pair, mask(), power=3., reduction='sum')
    assert loss([pair[0]] * 2, [pair[1]] * 2, samples()) == {'attention': [want] * 2}


def test_maps_of_different_sizes():
    student, teacher = maps()
    large = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
    want = attention_transfer_loss(student, teacher, mask())
    torch.testing.assert_close(AttentionTransferLoss()([student], [large], samples())['attention'][0], want)
    large = student.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(AttentionTransferLoss()([large], [teacher], samples())['attention'][0], want)


@pytest.mark.parametrize('option, message', [
    (dict(loss_weight=0), 'AttentionTransferLoss: weights must be'),
    (dict(power=0.5), 'power must be at least 1, got 0.5'),
    (dict(reduction='max'), r"reduction must be one of \('mean', 'sum'\), got 'max'"),
])
def test_errors(option, message):
    with pytest.raises(ValueError, match=message):
        AttentionTransferLoss(**option)


def test_errors_of_shapes():
    with pytest.raises(ValueError, match=r'of one N, H and W, got \(2, 5, 4, 6\) and \(2, 5, 4, 3\)'):
        attention_transfer_loss(torch.ones(2, 5, 4, 6), torch.ones(2, 5, 4, 3))
