"""Correlations within windows: those of maps whose windows' means have been subtracted, cell by cell."""
import pytest
import torch

from mmgkd.functional import channel_graph_levels, channel_graph_terms, moments, spatial_attention, uniform_weight
from mmgkd.functional.coarsen import means_beside
from mmgkd.functional.moments import SMOOTH, moments_within


def maps(shape=(2, 6, 7, 9), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) + 3 for _ in range(2)]


def centred(x, weight, side):
    """By loops: each cell less the weighted mean of its window."""
    n, _, h, w = x.shape
    weight, out = weight.view(n, 1, h, w), torch.zeros_like(x)
    for i in range(0, h, side):
        for j in range(0, w, side):
            part = (..., slice(i, i + side), slice(j, j + side))
            total = weight[part].sum((2, 3), keepdim=True)
            mean = (weight[part] * x[part]).sum((2, 3), keepdim=True) / total.clamp(min=1e-30)
            out[part] = x[part] - mean
    return out


def masks():
    valid = torch.ones(2, 7, 9, dtype=torch.bool)
    valid[1, 4:] = False
    valid[1, :, 5:] = False
    return valid


@pytest.mark.parametrize('side', [2, 3, 4, 8])
@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('options', [{}, dict(pooled=True), dict(spectral='subspace', affinity='shift')])
def test_terms_are_those_of_maps_less_the_means_of_their_windows(side, padded, options):
    student, teacher = maps()
    student.requires_grad_()
    valid = masks() if padded else None
    options = dict(options, num_eigenvectors=3)
    weight = uniform_weight(teacher, valid)
    less = [centred(x, weight, side) for x in (student, teacher)]
    want = channel_graph_terms(*less, valid, centered=False, **options)
    got = channel_graph_terms(student, teacher, valid, window_size=side, **options)
    for term, value in got.items():
        torch.testing.assert_close(value, want[term])
        torch.testing.assert_close(*(torch.autograd.grad(x, student, retain_graph=True)[0]
                                     for x in (value, want[term])))


@pytest.mark.parametrize('gram', [False, True])
@pytest.mark.parametrize('padded', [False, True])
def test_means_of_windows_are_weighted_by_attention(gram, padded):
    student, teacher = maps()
    valid = masks() if padded else None
    weight = spatial_attention(teacher, valid)
    student, means_s, share = means_beside(student, weight, side=3)
    means_t = means_beside(teacher, weight, side=3)[1]
    found = moments_within(moments(student, teacher, weight, gram=gram), moments(means_s, means_t, share, gram=gram))
    s, t = (centred(x, weight, 3).flatten(2) for x in (student, teacher))
    torch.testing.assert_close(found.cross, (weight.unsqueeze(1) * s * t).sum(-1))
    for square, x in ((found.student, s), (found.teacher, t)):
        whole = weight.unsqueeze(1) * x @ x.mT
        torch.testing.assert_close(square, whole if gram else whole.diagonal(dim1=1, dim2=2))
    got = channel_graph_terms(student, teacher, valid, window_size=3, attention=('spatial',), terms=('vertex',))
    r = found.cross / (found.student * found.teacher).sqrt() if not gram else None
    assert gram or got['vertex'] == pytest.approx(float((1 - r).mean()))


def test_a_window_as_large_as_the_map_is_the_map():
    student, teacher = maps()
    for side in (9, 100):
        got, want = (channel_graph_terms(student, teacher, num_eigenvectors=3, **options)
                     for options in (dict(window_size=side), {}))
        assert got == want
    by_eight = channel_graph_terms(student, teacher, num_eigenvectors=3, window_size=8)
    assert abs(by_eight['vertex'] - want['vertex']) > 1e-3


def test_what_changes_from_window_to_window_alone_does_not_count():
    student, teacher = maps((2, 6, 8, 8))
    ground = 5 * torch.rand(2, 6, 2, 2, dtype=torch.float64).repeat_interleave(4, 2).repeat_interleave(4, 3)
    got, want = (channel_graph_terms(x, teacher, num_eigenvectors=3, window_size=4)
                 for x in (student + ground, student))
    torch.testing.assert_close(got, want)
    plain = channel_graph_terms(student + ground, teacher, num_eigenvectors=3)
    assert plain['vertex'] > want['vertex']


def test_equal_maps_and_smooth_channels():
    """Zero for equal maps; a channel that is constant in each window carries no relation."""
    student, teacher = maps((1, 6, 8, 8))
    same = channel_graph_terms(teacher, teacher, num_eigenvectors=3, window_size=4)
    assert all(abs(value) < 1e-9 for value in same.values())
    smooth = teacher.clone()
    smooth[:, 0] = torch.rand(2, 2, dtype=torch.float64).repeat_interleave(4, 0).repeat_interleave(4, 1)
    smooth[:, 0] += SMOOTH * 1e-3 * torch.rand(8, 8, dtype=torch.float64)
    student.requires_grad_()
    losses = channel_graph_terms(student, smooth, num_eigenvectors=3, window_size=4)
    grad, = torch.autograd.grad(sum(losses.values()), student)
    assert torch.isfinite(grad).all() and (grad[:, 0] == 0).all() and (grad[:, 1:] != 0).any()


def test_float32_is_near_float64_on_maps_of_slow_background():
    generator = torch.Generator().manual_seed(0)
    ground = 20 * torch.rand(1, 6, 2, 2, generator=generator).repeat_interleave(16, 2).repeat_interleave(16, 3)
    student, teacher = (torch.randn(1, 6, 32, 32, generator=generator) + ground for _ in range(2))
    got = channel_graph_terms(student, teacher, num_eigenvectors=3, window_size=4)
    want = channel_graph_terms(student.double(), teacher.double(), num_eigenvectors=3, window_size=4)
    for term, value in got.items():
        assert float(value) == pytest.approx(float(want[term]), rel=1e-4), term


def test_means_of_large_maps_have_windows_of_their_own():
    """Edges of a map of too many cells are those within windows of its means."""
    student, teacher = maps((1, 6, 16, 16))
    found = channel_graph_levels([student], [teacher], [None], terms=('edge',), max_cells=64, window_size=4)['edge']
    small = [torch.nn.functional.avg_pool2d(x, 2) for x in (student, teacher)]
    torch.testing.assert_close(found, channel_graph_levels(*([x] for x in small), [None], terms=('edge',),
                                                           window_size=4)['edge'])


@pytest.mark.parametrize('size', [0, 1, -2])
def test_a_window_has_two_cells_a_side(size):
    with pytest.raises(ValueError, match='window_size must be at least 2'):
        channel_graph_terms(*maps(), window_size=size)
