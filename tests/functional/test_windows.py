"""Correlations within windows: those of maps whose windows' means have been subtracted, cell by cell."""
import pytest
import torch

from mmgkd.functional import channel_graph_levels, channel_graph_terms, moments, spatial_attention, uniform_weight
from mmgkd.functional.coarsen import means_beside
from mmgkd.functional.moments import moments_within


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


def ground(size, side, seed=0):
    """Constant in each window, for each channel of each image its own."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(2, 6, size // side, size // side, dtype=torch.float64, generator=generator)
    return steps.repeat_interleave(side, 2).repeat_interleave(side, 3)


def test_what_changes_from_window_to_window_alone_does_not_count():
    noise, teacher = maps((2, 6, 8, 8))
    student = teacher + .3 * noise
    got, want = (channel_graph_terms(x, teacher, num_eigenvectors=3, window_size=4)
                 for x in (student + 5 * ground(8, 4), student))
    torch.testing.assert_close(got, want)
    plain = channel_graph_terms(student + 5 * ground(8, 4), teacher, num_eigenvectors=3)
    assert plain['vertex'] > want['vertex'] + .1


def test_equal_maps():
    _, teacher = maps((1, 6, 8, 8))
    losses = channel_graph_terms(teacher, teacher, num_eigenvectors=3, window_size=4)
    assert all(abs(value) < 1e-9 for value in losses.values())


@pytest.mark.parametrize('of_student', [False, True])
@pytest.mark.parametrize('share', [0., .5e-4, 2e-4])
def test_a_channel_that_is_smooth_within_windows_counts_as_constant(of_student, share):
    """Of the teacher's, it is left out; of the student's, it correlates with nothing and gets no gradient."""
    student, teacher = (x[:1] for x in maps((1, 6, 8, 8)))
    smooth = student if of_student else teacher
    base, noise = ground(8, 4)[:1, :1], centred(smooth[:, :1], torch.ones(1, 64, dtype=torch.float64), 4)
    noise = noise * (share / (1 - share) * base.var() / noise.var()).sqrt()
    smooth = torch.cat([base + noise, smooth[:, 1:]], 1)
    student, teacher = (smooth, teacher) if of_student else (student, smooth)
    student = student.clone().requires_grad_()
    losses = channel_graph_terms(student, teacher, num_eigenvectors=3, window_size=4)
    grad, = torch.autograd.grad(sum(losses.values()), student)
    assert torch.isfinite(grad).all() and (grad[:, 1:] != 0).any()
    assert (grad[:, 0] != 0).any() == (share > 1e-4)


@pytest.mark.parametrize('attention', [None, ('spatial',)])
@pytest.mark.parametrize('size', [(8, 12), (9, 13)])
def test_half_precision_bears_a_large_loss_scale_with_padding(size, attention):
    """What a gradient scaler multiplies by must not leave the range of float16 on the way to the map."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 16, 4 * size[0], 4 * size[1], generator=generator) for _ in range(2))
    valid = torch.ones(1, *student.shape[2:], dtype=torch.bool)
    valid[..., -9:] = False
    grads = []
    for dtype in (torch.float16, torch.float64):
        x = student.to(dtype).requires_grad_()
        losses = channel_graph_terms(x, teacher.to(dtype), valid, attention=attention, terms=('vertex', 'edge'),
                                     window_size=4)
        grads.append(torch.autograd.grad(75 * 2 ** 16 * sum(losses.values()), x)[0].double())
    assert torch.isfinite(grads[0]).all() and grads[1].abs().max() < 6e4
    assert (grads[0] - grads[1]).norm() < .01 * grads[1].norm()


def test_a_map_no_larger_than_a_window_is_one_window():
    student, teacher = maps((1, 6, 8, 8))
    assert channel_graph_terms(student, teacher, num_eigenvectors=3, window_size=8) == \
        channel_graph_terms(student, teacher, num_eigenvectors=3)


def test_cosines_within_windows_are_refused():
    """Cells relative to the mean of their window are centred: the option would do nothing."""
    with pytest.raises(ValueError, match='centered=False.*set window_size=None'):
        channel_graph_terms(*maps((1, 6, 8, 8)), window_size=4, centered=False)


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


@pytest.mark.parametrize('size', [0, 1, -2, 4., True, '4', float('inf')])
def test_a_window_has_two_cells_a_side(size):
    with pytest.raises(ValueError, match='window_size must be a whole number of cells, at least 2'):
        channel_graph_terms(*maps(), window_size=size)
