"""Batches of nothing, maps of one cell, channels that are constant: finite, and what it should be."""
import oracle
import pytest
import torch

from mmgkd.functional import channel_graph_terms

MODES = [dict(spectral=s, affinity=a) for s in ('rayleigh', 'subspace') for a in ('relu', 'abs', 'shift')]
ATTENTION = [None, ('spatial', 'channel', 'relational')]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
MIXED = [dict(attention=ATTENTION[1], **MODES[0]), dict(attention=None, **MODES[5]),
         dict(attention=None, centered=False, **MODES[3])]  # every value of every option once


def maps(dtype=torch.float32, **kwargs):
    return [torch.tensor(x).to(dtype) for x in oracle.example(**kwargs)]


def run(student, teacher, **options):
    student = student.clone().requires_grad_()
    losses = channel_graph_terms(student, teacher, **{'num_eigenvectors': 2, **options})
    gradients = {}
    for term, loss in losses.items():
        gradients[term], = torch.autograd.grad(loss, student, retain_graph=True)
        assert loss.shape == () and loss.isfinite(), term
        assert gradients[term].isfinite().all(), f'gradient of {term}'
    return {term: loss.item() for term, loss in losses.items()}, gradients


@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
@pytest.mark.parametrize('attention', ATTENTION)
def test_empty_batch_is_a_zero_with_a_gradient(attention, mode):
    losses, gradients = run(torch.zeros(0, 5, 4, 6), torch.zeros(0, 5, 4, 6), attention=attention, **mode)
    assert losses == {'vertex': 0, 'edge': 0, 'spectral': 0}
    assert all(g.shape == (0, 5, 4, 6) for g in gradients.values())


@pytest.mark.parametrize('n', [1, 2])
@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
def test_small_batches(n, mode):
    losses, gradients = run(*maps(shape=(n, 5, 4, 6)), **mode)
    assert min(losses.values()) > 1e-5
    assert all(g.shape == (n, 5, 4, 6) for g in gradients.values())


@pytest.mark.parametrize('options', MIXED[:2])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_maps_of_one_cell_have_no_relations(dtype, options):
    losses, gradients = run(*maps(dtype, shape=(2, 5, 1, 1)), **options)
    assert losses == pytest.approx({'vertex': 0, 'edge': 0, 'spectral': 0}, abs=1e-5)
    assert all((g == 0).all() for g in gradients.values())


@pytest.mark.parametrize('attention', ATTENTION)
def test_maps_of_one_cell_without_centring_are_signs(attention):
    student, teacher = maps(torch.float64, shape=(1, 5, 1, 1))
    sign = torch.tensor([1., 1, -1, 1, 1]).view(5, 1, 1)
    student, teacher = sign * student.abs(), teacher.abs()
    losses, gradients = run(student, teacher, centered=False, attention=None)
    assert losses['vertex'] == pytest.approx(2 / 5)
    assert losses['edge'] == pytest.approx(4 * 8 / 20)
    run(student, teacher, centered=False, attention=attention)
    assert gradients['vertex'].abs().max() < 1e-9  # a sign has no slope


def test_one_channel():
    losses, _ = run(*maps(shape=(2, 1, 4, 6)), terms=('vertex', 'edge'))
    assert losses['vertex'] > 1e-3 and losses['edge'] == 0


def kill(x, channels, value):
    x = x.clone()
    x[:, channels] = value
    return x


DEAD = {'one': [1], 'all but one': [0, 1, 2, 4], 'all': [0, 1, 2, 3, 4]}


@pytest.mark.parametrize('value', [0, 3.3, -1e3])
@pytest.mark.parametrize('dead', DEAD)
@pytest.mark.parametrize('side', ['teacher', 'student', 'both'])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_constant_channels_are_finite(dtype, side, dead, value):
    student, teacher = maps(dtype)
    if side in ('student', 'both'):
        student = kill(student, DEAD[dead], value)
    if side in ('teacher', 'both'):
        teacher = kill(teacher, DEAD[dead], value)
    for options in MIXED:
        run(student, teacher, **options)


@pytest.mark.parametrize('student, teacher', [(0, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_zero_maps_are_finite(dtype, student, teacher):
    for options in MIXED:
        run(*(factor * x for factor, x in zip((student, teacher), maps(dtype), strict=True)), **options)


@pytest.mark.parametrize('value', [0, 3.3, -1e3])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('options', MIXED[:2])
def test_a_constant_teacher_asks_for_nothing(options, dtype, value):
    student, teacher = maps(dtype)
    losses, gradients = run(student, kill(teacher, slice(None), value), **options)
    assert losses == pytest.approx({'vertex': 0, 'edge': 0, 'spectral': 0}, abs=1e-5)
    assert all((g == 0).all() for g in gradients.values())


@pytest.mark.parametrize('value', [0, 0.1, 3.3, -1e3])
@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
def test_what_a_constant_teacher_channel_is_in_the_student_does_not_matter(mode, value):
    student, teacher = maps()
    teacher = kill(teacher, [1], value)
    want, _ = run(student, teacher, **mode)
    changed = student.clone()
    changed[:, 1] = 5 - student[:, 1].flip(1)
    got, gradients = run(changed, teacher, **mode)
    assert got == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert all((g[:, 1] == 0).all() for g in gradients.values())


@pytest.mark.parametrize('affinity', ['relu', 'abs', 'shift'])
@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
@pytest.mark.parametrize('attention', [None, ('relational',)])  # the other two look at every channel
def test_constant_teacher_channels_are_left_out(attention, spectral, affinity):
    """The loss with them is that without them; the mean over channels still counts them."""
    student, teacher = maps(torch.float64)
    options = dict(spectral=spectral, affinity=affinity, attention=attention)
    want, expected = run(student, teacher, **options)
    dead = torch.full((2, 3, 4, 6), 2.).double()
    extra = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    got, gradient = run(torch.cat([student, extra], 1), torch.cat([teacher, dead], 1), **options)
    assert got['vertex'] == pytest.approx(want['vertex'] * 5 / 8)
    assert got['edge'] == pytest.approx(want['edge'])
    assert got['spectral'] == pytest.approx(want['spectral'])
    torch.testing.assert_close(gradient['spectral'][:, :5], expected['spectral'], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
def test_order_of_the_channels_where_many_are_constant(mode):
    """The embedding is larger than the part of the graph that is alive."""
    student, teacher = maps(torch.float64, shape=(2, 8, 4, 6))
    teacher = kill(teacher, slice(3, None), 2.)
    losses = []
    for seed in range(4):
        order = torch.randperm(8, generator=torch.Generator().manual_seed(seed))
        losses.append(run(student[:, order], teacher[:, order], num_eigenvectors=4, **mode)[0])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize('value', [0, 3.3])
@pytest.mark.parametrize('options', MIXED[:2])
def test_a_constant_student_channel_gets_no_gradient(options, value):
    student, teacher = maps()
    _, gradients = run(kill(student, [1], value), teacher, **options)
    for term, gradient in gradients.items():
        assert (gradient[:, 1] == 0).all(), term
        assert gradient[:, 2:].abs().max() > 1e-5, term


def test_a_constant_student_channel_is_uncorrelated():
    student, teacher = maps(torch.float64)
    only = dict(attention=None, terms=('vertex',))
    r = 1 - 5 * run(student, teacher, **only)[0]['vertex'] / 5
    dead = run(kill(student, [1], 4.), teacher, **only)[0]['vertex']
    alone = run(student[:, [1]], teacher[:, [1]], **only)[0]['vertex']
    assert dead == pytest.approx((5 * (1 - r) - alone + 1) / 5)


@pytest.mark.parametrize('value', [0.1, 3.3, -1e3])
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
def test_a_constant_student_is_a_zero_student(dtype, value):
    student, teacher = maps(dtype)
    want, _ = run(0 * student.float(), teacher.float())
    got, _ = run(kill(student, slice(None), value), teacher)
    assert got == pytest.approx(want, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize('side', ['student', 'teacher'])
def test_one_channel_of_another_magnitude(side):
    """Invariance to a factor on a channel holds for the outlier channels that real networks have."""
    student, teacher = maps(torch.float64)
    want, _ = run(student, teacher, attention=None)
    scale = torch.tensor([1., 3000, 1, 1, 1]).double().view(5, 1, 1)
    pair = (scale * student, teacher) if side == 'student' else (student, scale * teacher)
    assert run(*pair, attention=None)[0] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
@pytest.mark.parametrize('side', [0, 1])
def test_what_is_not_finite_gives_nan_and_no_exception(spectral, side):
    maps = [torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    maps[side][1, 2, 0, 0] = torch.inf
    losses = channel_graph_terms(maps[0].requires_grad_(), maps[1], num_eigenvectors=3, spectral=spectral)
    assert all(value.isnan() for value in losses.values())
    sum(losses.values()).backward()
