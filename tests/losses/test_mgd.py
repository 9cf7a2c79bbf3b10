"""MGD: the teacher's map generated from a masked student's."""
import numpy as np
import pytest
import torch
from maps_common import gradient, kept, maps, mask, options, samples
from torch import nn

from mmgkd import MGDLoss
from mmgkd.functional import mgd_loss, mgd_mask

SHAPES = [(5, 4, 6), (5, 2, 3)]


def prepared(levels=1, **kwargs):
    torch.manual_seed(0)
    loss = MGDLoss(**kwargs).double()
    loss.prepare(SHAPES[:levels], SHAPES[:levels])
    return loss.double()


def convolve(feat, conv):
    """A 3x3 convolution of one map (C, H, W), zeros around it."""
    c, h, w = feat.shape
    weight, bias = (p.detach().numpy() for p in (conv.weight, conv.bias))
    out = np.zeros((len(bias), h, w))
    for o, y, x in np.ndindex(*out.shape):
        out[o, y, x] = bias[o] + sum(
            weight[o, i, dy + 1, dx + 1] * feat[i, y + dy, x + dx] for i in range(c) for dy in (-1, 0, 1)
            for dx in (-1, 0, 1) if 0 <= y + dy < h and 0 <= x + dx < w)
    return out


def oracle(loss, student, teacher, left, valid=None):
    first, _, second = loss.generators[0]
    total = 0
    for i in range(len(student)):
        hidden = convolve(student[i].detach().numpy() * left[i].numpy(), first)
        generated = convolve(np.maximum(hidden, 0), second)
        for c, y, x in np.ndindex(*generated.shape):
            if valid is None or valid[i, y, x]:
                total += (generated[c, y, x] - teacher[i, c, y, x].item()) ** 2
    return total / len(student)


@pytest.mark.parametrize('padded', [False, True])
def test_value(padded):
    loss, (student, teacher), valid = prepared(), maps(), mask() if padded else None
    torch.manual_seed(7)
    left = mgd_mask(student, valid, ratio=0.45)
    torch.manual_seed(7)
    got, = loss([student], [teacher], samples() if padded else None)['generation']
    assert 0 < left.mean() < 1
    assert got.item() == pytest.approx(oracle(loss, student, teacher, left, valid), rel=1e-10)


def test_gradcheck():
    generated, teacher = maps()
    torch.autograd.gradcheck(lambda g: mgd_loss(g, teacher, mask()), generated.requires_grad_())


def test_the_generator_learns_and_the_teacher_does_not():
    loss, (student, teacher) = prepared(), maps()
    value, = loss([student.requires_grad_()], [teacher.requires_grad_()])['generation']
    value.backward()
    assert teacher.grad is None and all(p.grad.abs().max() > 1e-3 for p in [student, *loss.parameters()])


def test_masked_cells_are_not_seen():
    loss, (student, teacher) = prepared(), maps()
    torch.manual_seed(7)
    left = mgd_mask(student, ratio=0.45) > 0
    torch.manual_seed(7)
    value, = loss([student.requires_grad_()], [teacher])['generation']
    found = gradient(value, student)[0].abs().sum(1, keepdim=True)
    assert (found[~left] == 0).all() and (found[left] > 0).all()


def test_the_mask_follows_the_seed_whatever_the_map_holds():
    drawn = []
    for x in (torch.zeros(2, 5, 4, 6), torch.randn(2, 3, 4, 6).bfloat16(), torch.ones(2, 1, 4, 6).double()):
        torch.manual_seed(3)
        drawn.append(mgd_mask(x, ratio=0.45))
        assert drawn[-1].dtype == x.dtype and drawn[-1].shape == (2, 1, 4, 6)
    assert all(torch.equal(x.bool(), drawn[0].bool()) for x in drawn)
    assert not torch.equal(mgd_mask(torch.zeros(2, 5, 4, 6), ratio=0.45), drawn[0])
    torch.manual_seed(3)
    assert torch.equal(mgd_mask(torch.zeros(2, 5, 4, 6), mask(), ratio=0.45), drawn[0] * mask().unsqueeze(1))


@pytest.mark.parametrize('given', [lambda s, t: (s, t), lambda s, t: (0 * s, t), lambda s, t: (s, 9 * t.flip(0))])
def test_what_is_drawn_depends_on_the_students_shapes_alone(given):
    loss, pair = prepared(2), maps()
    small = [x[..., ::2, ::2] for x in pair]
    torch.manual_seed(3)
    loss(*zip(given(*pair), given(*small), strict=True), samples())
    state = torch.get_rng_state()
    torch.manual_seed(3)
    for _, h, w in SHAPES:
        torch.rand(2, 1, h, w)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('ratio, share', [(0, 1), (0.45, 0.55), (0.65, 0.35), (1, 0)])
def test_share_of_cells_left(ratio, share):
    torch.manual_seed(0)
    assert mgd_mask(torch.zeros(4, 1, 100, 100), ratio=ratio).mean().item() == pytest.approx(share, abs=0.01)


def test_no_map_is_kept_beside_the_generated():
    generated, teacher = maps((2, 16, 20, 30), dtype=torch.bfloat16)
    _, own = kept(lambda: mgd_loss(generated.requires_grad_(), teacher), generated, teacher)
    assert own == 2 * 20 * 30 * 4


def test_initialisation_is_torchs_own():
    loss, conv = prepared(), nn.Conv2d(5, 5, 3, padding=1)
    bound = 1 / (5 * 9) ** 0.5
    for own in (loss.generators[0][0], loss.generators[0][2]):
        assert own.weight.shape == conv.weight.shape and own.padding == conv.padding
        assert 0.8 * bound < own.weight.abs().max() <= bound and own.bias.abs().max() > 0


def test_the_shell():
    assert set(options(MGDLoss)) == set(options(mgd_mask)) and options(mgd_loss) == {}
    loss = MGDLoss(loss_weight=3.)
    assert loss.weights == {'generation': 3.} and loss.same_shape and not list(loss.parameters())


@pytest.mark.parametrize('option, message', [
    (dict(loss_weight=0), 'MGDLoss: weights must be at least 0'),
    (dict(ratio=-0.1), 'ratio must be from 0 to 1, got -0.1'),
    (dict(ratio=1.1), 'ratio must be from 0 to 1, got 1.1'),
])
def test_errors(option, message):
    with pytest.raises(ValueError, match=message):
        MGDLoss(**option)


def test_a_loss_that_is_not_prepared():
    student, teacher = maps()
    with pytest.raises(RuntimeError, match=r'MGDLoss has learned parts for 0 levels and got 1: prepare\('):
        MGDLoss()([student], [teacher])
