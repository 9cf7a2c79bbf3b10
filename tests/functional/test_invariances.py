"""What the terms must not see, and what they must."""
import oracle
import pytest
import torch

from mmgkd.functional import channel_graph_terms

MODES = [dict(spectral=s, affinity=a) for s in ('rayleigh', 'subspace') for a in ('relu', 'abs', 'shift')]
ATTENTION = [None, ('spatial', 'channel', 'relational')]


def terms(student, teacher, valid=None, **options):
    return channel_graph_terms(student, teacher, valid, **{'num_eigenvectors': 2, **options})


def maps():
    return map(torch.tensor, oracle.example())


def per_channel(low, high, seed=0):
    """A factor or an offset for each channel of each image, (N, C, 1, 1)."""
    x = torch.rand(2, 5, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * x


def assert_same(got, want):
    assert got.keys() == want.keys()
    for term in want:
        torch.testing.assert_close(got[term], want[term], rtol=1e-9, atol=1e-11,
                                   msg=lambda m, t=term: f'{t}: {m}')


def assert_differs(got, want, *names):
    for term in names:
        assert abs(got[term] - want[term]) > 1e-3, f'{term} does not notice'


@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
@pytest.mark.parametrize('centered', [True, False])
@pytest.mark.parametrize('attention', ATTENTION)
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_zero_at_equality_and_a_minimum(mode, centered, attention, dtype):
    _, teacher = maps()
    student = teacher.to(dtype).clone().requires_grad_()
    losses = terms(student, teacher.to(dtype), attention=attention, centered=centered, **mode)
    assert set(losses) == {'vertex', 'edge', 'spectral'}
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for term, loss in losses.items():
        assert abs(loss.item()) < tolerance, term
        gradient, = torch.autograd.grad(loss, student, retain_graph=True)
        assert gradient.abs().max() < 10 * tolerance, term


@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
@pytest.mark.parametrize('centered', [True, False])
@pytest.mark.parametrize('attention', ATTENTION)
def test_channels_of_both_permuted(mode, centered, attention):
    student, teacher = maps()
    order = torch.tensor([3, 0, 4, 2, 1])
    options = dict(mode, centered=centered, attention=attention)
    assert_same(terms(student[:, order], teacher[:, order], **options), terms(student, teacher, **options))


@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
@pytest.mark.parametrize('attention', ATTENTION)
def test_cells_of_both_permuted(mode, attention):
    student, teacher = maps()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor(oracle.example_valid())
    moved = [x.flatten(-2)[..., order].view(x.shape) for x in (student, teacher, valid)]
    assert_same(terms(*moved, **mode, attention=attention), terms(student, teacher, valid, **mode,
                                                                  attention=attention))


def test_images_of_both_permuted():
    student, teacher = maps()
    assert_same(terms(student.flip(0), teacher.flip(0)), terms(student, teacher))


def test_the_mean_over_images():
    student, teacher = maps()
    one, two = (terms(student[i:i + 1], teacher[i:i + 1]) for i in range(2))
    assert_same(terms(student, teacher), {term: (one[term] + two[term]) / 2 for term in one})


@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
@pytest.mark.parametrize('attention', ATTENTION)
def test_affine_map_of_each_student_channel(mode, attention):
    student, teacher = maps()
    moved = per_channel(0.3, 3) * student + per_channel(-9, 9, seed=1)
    assert_same(terms(moved, teacher, **mode, attention=attention), terms(student, teacher, **mode,
                                                                          attention=attention))


@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
@pytest.mark.parametrize('attention', [None, ('relational',)])  # the others look at magnitudes
def test_affine_map_of_each_teacher_channel(mode, attention):
    student, teacher = maps()
    moved = per_channel(0.3, 3) * teacher + per_channel(-9, 9, seed=1)
    assert_same(terms(student, moved, **mode, attention=attention), terms(student, teacher, **mode,
                                                                          attention=attention))


@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
def test_scaling_of_each_channel_without_centring(mode):
    student, teacher = maps()
    options = dict(mode, centered=False, attention=None)
    want = terms(student, teacher, **options)
    assert_same(terms(per_channel(0.3, 3) * student, teacher, **options), want)
    assert_same(terms(student, per_channel(0.3, 3) * teacher, **options), want)


@pytest.mark.parametrize('attention', [None, ('spatial', 'channel'), ('relational',)])
@pytest.mark.parametrize('factor', [1e-6, 1e6])
def test_scale_of_a_whole_map(factor, attention):
    student, teacher = maps()
    want = terms(student, teacher, attention=attention)
    assert_same(terms(factor * student, teacher, attention=attention), want)
    assert_same(terms(student, factor * teacher, attention=attention), want)


def test_images_do_not_see_each_other():
    student, teacher = maps()
    x = student.clone().requires_grad_()
    half = terms(x[:1], teacher[:1])
    torch.autograd.backward([v / 2 for v in half.values()])
    y = student.clone().requires_grad_()
    torch.autograd.backward(list(terms(y, torch.cat([teacher[:1], 5 * teacher[1:].flip(1)])).values()))
    torch.testing.assert_close(y.grad[:1], x.grad[:1], rtol=1e-9, atol=1e-12)


# what must be noticed

@pytest.mark.parametrize('mode', MODES, ids=lambda m: '-'.join(m.values()))
def test_notices_channels_of_the_student_alone_permuted(mode):
    _, teacher = maps()
    assert_differs(terms(teacher[:, [3, 0, 4, 2, 1]], teacher, **mode), terms(teacher, teacher, **mode),
                   'vertex', 'edge', 'spectral')


def test_notices_cells_of_the_student_alone_permuted():
    student, teacher = maps()
    want, got = (terms(x, teacher) for x in (student, student.flip(3)))
    assert_differs(got, want, 'vertex')
    for term in ('edge', 'spectral'):  # relations of channels have no place, unless attention gives them one
        torch.testing.assert_close(got[term], want[term])
    want, got = (terms(x, teacher, attention=('spatial',)) for x in (student, student.flip(3)))
    assert_differs(got, want, 'vertex', 'edge')


@pytest.mark.parametrize('affinity', ['relu', 'shift'])
@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
def test_notices_the_sign_of_a_channel(spectral, affinity):
    _, teacher = maps()
    sign = torch.tensor([1, -1, 1, 1, 1]).view(5, 1, 1)
    mode = dict(spectral=spectral, affinity=affinity)
    assert_differs(terms(sign * teacher, teacher, **mode), terms(teacher, teacher, **mode),
                   'vertex', 'edge', 'spectral')
    got = terms(sign * teacher, teacher, spectral=spectral, affinity='abs')['spectral']
    assert abs(got) < 1e-12


def test_notices_an_offset_only_without_centring():
    student, teacher = maps()
    offset = per_channel(1, 3)
    assert_differs(terms(student + offset, teacher, centered=False), terms(student, teacher, centered=False),
                   'vertex', 'edge', 'spectral')


def test_vertex_notices_what_no_relation_shows():
    _, teacher = maps()
    opposite = terms(-teacher, teacher, attention=None)
    assert opposite['vertex'].item() == pytest.approx(2)
    assert abs(opposite['edge']) < 1e-12 and abs(opposite['spectral']) < 1e-12


def test_attention_follows_the_teacher():
    student, teacher = maps()
    plain = terms(student, teacher, attention=None)
    assert_differs(terms(student, teacher, attention=('spatial',)), plain, 'vertex', 'edge', 'spectral')
    assert_differs(terms(student, teacher, attention=('channel',)), plain, 'vertex', 'edge')
    assert_differs(terms(student, teacher, attention=('relational',)), plain, 'edge')


@pytest.mark.parametrize('noise', [0., 1e-2, .3, 3.])
def test_edges_differ_by_no_more_than_their_vertices(noise):
    """An edge's difference is at most the sum over its two ends of the root of 2 (1 - r), by Cauchy and Schwarz."""
    teacher = torch.randn(1, 8, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    student = teacher + noise * teacher.flip(2, 3)
    flat_s, flat_t = student.flatten(2)[0], teacher.flatten(2)[0]
    difference = (torch.corrcoef(flat_s) - torch.corrcoef(flat_t)).abs()
    apart = (2 - 2 * torch.corrcoef(torch.cat([flat_s, flat_t]))[range(8), range(8, 16)]).clamp(min=0).sqrt()
    assert (difference <= apart + apart.unsqueeze(1) + 1e-12).all()
    losses = terms(student, teacher)
    assert losses['edge'] <= 8 * losses['vertex'] + 1e-12  # and so of the means: (a + b)^2 <= 2 (a^2 + b^2)
    torch.testing.assert_close(losses['vertex'], apart.square().mean() / 2)
