"""The channel graph over levels: how they are weighed, and edges of maps that are made coarser."""
import numpy as np
import pytest
import scipy
import torch
import torch.nn.functional as F

from mmgkd import ChannelGraphLoss
from mmgkd.functional import channel_attention, channel_graph_levels, channel_graph_terms, coarsen

SHAPES = [(16, 24), (8, 12), (4, 6), (2, 3)]
OPTIONS = dict(num_eigenvectors=3)


def maps(seed=0, channels=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, *shape, generator=generator) for shape in SHAPES]


def values(loss, student=None, teacher=None):
    return {term: float(sum(found)) for term, found in loss(student or maps(0), teacher or maps(1)).items()}


def test_weights_by_cells_are_those_of_the_maps():
    """Each level has a quarter of the cells of the one before."""
    by_cells = values(ChannelGraphLoss(level_weights='cells', **OPTIONS))
    by_hand = values(ChannelGraphLoss(level_weights=[64, 16, 4, 1], **OPTIONS))
    assert by_cells == pytest.approx(by_hand, rel=1e-6)
    assert by_cells != pytest.approx(values(ChannelGraphLoss(**OPTIONS)), rel=1e-3)


def test_with_weights_by_cells_the_gradients_of_all_cells_are_alike():
    """With equal weights those of the last level are 64 times as large as those of the first."""
    for weights, least, most in (('cells', .3, 3.), (None, 20., 200.)):
        student = [x.requires_grad_() for x in maps(0)]
        loss = ChannelGraphLoss(level_weights=weights, edge_weight=0., spectral_weight=0., attention=None, **OPTIONS)
        sum(loss(student, maps(1))['vertex']).backward()
        first, last = (x.grad.square().mean().sqrt() for x in (student[0], student[-1]))
        assert least < last / first < most


@pytest.mark.parametrize('wrong', ['areas', [1., -1., 1., 1.], [0.] * 4])
def test_weights_that_are_none(wrong):
    with pytest.raises(ValueError, match='level_weights must be'):
        ChannelGraphLoss(level_weights=wrong, **OPTIONS)


@pytest.mark.parametrize('pooled', [False, True])
def test_edges_of_large_maps_are_those_of_their_means_over_squares(pooled):
    options = dict(OPTIONS, attention=('spatial',), pooled=pooled)
    coarse = values(ChannelGraphLoss(max_cells=24, **options))
    expected = dict(edge=0., spectral=0.)
    for student, teacher, side in zip(maps(0), maps(1), [4, 2, 1, 1], strict=True):
        small = [coarsen(x, side=side)[0] for x in (student, teacher)]
        for term, value in channel_graph_terms(*small, terms=('edge', 'spectral'), **options).items():
            expected[term] += float(value) / 4
    assert {term: coarse[term] for term in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('pooled', [False, True])
@pytest.mark.parametrize('attention', [None, ('spatial', 'channel')])
def test_vertices_of_large_maps_are_compared_cell_by_cell(pooled, attention):
    """Whether edges are asked for or not: values and gradients."""
    options = dict(OPTIONS, pooled=pooled, attention=attention, edge_weight=0.)
    found = []
    for loss in (ChannelGraphLoss(max_cells=24, **options), ChannelGraphLoss(max_cells=None, **options),
                 ChannelGraphLoss(max_cells=24, spectral_weight=0., **options)):
        student = [x.double().requires_grad_() for x in maps(0)]
        value = sum(loss(student, [x.double() for x in maps(1)])['vertex'])
        value.backward()
        found.append((value.detach(), *(x.grad for x in student)))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


def test_channels_of_means_weigh_by_attention_to_the_map():
    """A channel that the teacher has at single cells alone weighs as much in edges as it does in vertices."""
    student, teacher = (maps(seed)[0][:1].double() for seed in (0, 1))
    teacher[0, 0, ::2, ::2], teacher[0, 0, ::2, 1::2] = 9., -9.  # their means are 0
    found = channel_graph_terms(
        student, teacher, attention=('channel',), terms=('edge',), max_cells=24, **OPTIONS)['edge']
    graph_s, graph_t = (torch.corrcoef(coarsen(x, side=4)[0][0].flatten(1)) for x in (student, teacher))
    focus = channel_attention(teacher)[0]
    pair = torch.outer(focus, focus).fill_diagonal_(0)
    expected = (pair * (graph_s - graph_t).square()).sum() / pair.sum()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('pooled', [False, True])
@pytest.mark.parametrize('padded', [False, True])
def test_gradients_of_all_terms_of_a_large_map(pooled, padded):
    """Made in one tensor, they are the sum of the gradients of each term alone."""
    student = maps(0)[0].double().requires_grad_()
    teacher, valid = maps(1)[0].double(), None
    if padded:
        valid = torch.ones(2, 16, 24, dtype=torch.bool)
        valid[0, 13:], valid[1, :, 21:] = False, False
    options = dict(OPTIONS, max_cells=24, pooled=pooled)
    together = channel_graph_terms(student, teacher, valid, **options)
    alone = [channel_graph_terms(student, teacher, valid, terms=(term,), **options)[term] for term in together]
    torch.testing.assert_close(list(together.values()), alone)
    expected = sum(torch.autograd.grad(value, student)[0] for value in alone)
    torch.testing.assert_close(torch.autograd.grad(sum(together.values()), student)[0], expected)


def test_small_maps_are_compared_as_they_are():
    assert values(ChannelGraphLoss(max_cells=16 * 24, **OPTIONS)) == values(ChannelGraphLoss(max_cells=None, **OPTIONS))


def test_padding_stays_out_of_coarse_maps():
    valid = torch.ones(2, 16, 24, dtype=torch.bool)
    valid[:, 11:] = False
    student, teacher = maps(0)[0], maps(1)[0]
    noisy = student.clone()
    noisy[:, :, 11:] = 1e3
    options = dict(max_cells=40, **OPTIONS)
    one, two = (channel_graph_terms(x, teacher, valid, **options) for x in (student, noisy))
    for term in one:
        torch.testing.assert_close(one[term], two[term])


@pytest.mark.parametrize('cells', [0, -1, float('nan')])
def test_a_limit_of_no_cells(cells):
    with pytest.raises(ValueError, match=f'max_cells must be at least 1, or None, got {cells}'):
        ChannelGraphLoss(max_cells=cells, **OPTIONS)


def plainly(student, teacher, guided=False, side=None, r=16):
    """The terms at one level (C, H, W), in float64 and straight from the equations."""
    channels = len(student)
    student, teacher = (x.double() for x in (student, teacher))
    if side and side < max(teacher.shape[1:]):
        student, teacher = (x - F.avg_pool2d(x, side).repeat_interleave(side, 1).repeat_interleave(side, 2)
                            for x in (student, teacher))
    student, teacher = (x.numpy().reshape(channels, -1) for x in (student, teacher))
    at_cells, of_channels = np.abs(teacher).sum(0), np.abs(teacher).sum(1)
    cells, focus = np.ones(student.shape[1]), np.ones(channels)
    if guided:
        cells = .5 / student.shape[1] + .5 * scipy.special.softmax(at_cells / at_cells.mean() / .5)
        focus = channels * scipy.special.softmax(of_channels / of_channels.mean() / .5)
    covariance = np.cov(student, teacher, aweights=cells, ddof=0)
    deviation = np.sqrt(np.diagonal(covariance))
    both = covariance / np.outer(deviation, deviation)
    graph_s, graph_t = both[:channels, :channels], both[channels:, channels:]
    pair = np.outer(focus, focus) * (1 - np.eye(channels))
    laplacian_s, laplacian_t = (
        scipy.sparse.csgraph.laplacian(np.maximum(graph, 0) * (1 - np.eye(channels)), normed=True)
        for graph in (graph_s, graph_t))
    values, vectors = scipy.linalg.eigh(laplacian_t, subset_by_index=(1, r))  # 0 is the trivial one
    return dict(
        vertex=(focus * (1 - np.diagonal(both[:channels, channels:]))).mean(),
        edge=(pair * (graph_s - graph_t) ** 2).sum() / pair.sum(),
        spectral=((vectors.T @ laplacian_s @ vectors - np.diag(values)) ** 2).sum() / r)


@pytest.mark.parametrize('options', [{}, dict(window_size=4), dict(attention=('spatial', 'channel'))])
def test_what_makes_it_fast_changes_no_term(options):
    """Whole, within windows, and guided, with an FPN's channels and the maps of an image of 512 x 512, in float32."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(256, 40, generator=generator)
    students, teachers = [], []
    for size in (128, 64, 32, 16, 8):
        base, noise = (torch.randn(k, size * size, generator=generator) for k in (40, 512))
        teacher = (mix @ base + 2 * noise[:256]).relu()  # as the channels of a network are: related, and off centre
        students.append((teacher + 2 * noise[256:]).view(1, 256, size, size))
        teachers.append(teacher.view(1, 256, size, size))
    found = values(ChannelGraphLoss(level_weights='cells', **options), students, teachers)
    sizes = [x[0, 0].numel() for x in teachers]
    plain = [plainly(x[0], y[0], 'attention' in options, options.get('window_size'))
             for x, y in zip(students, teachers, strict=True)]
    for term, value in found.items():
        expected = sum(n / sum(sizes) * level[term] for n, level in zip(sizes, plain, strict=True))
        assert value == pytest.approx(expected, rel=1e-4), term


@pytest.mark.parametrize('pooled', [False, True])
def test_levels_together_are_levels_one_by_one(pooled):
    """Whether they have as many channels or not, padded or not: values and gradients."""
    students = [torch.randn(2, c, *shape, dtype=torch.float64).requires_grad_()
                for c, shape in zip((6, 6, 9, 6), SHAPES, strict=True)]
    teachers = [torch.randn_like(x) for x in students]
    valids = [torch.rand(2, *SHAPES[0]) < .8, None, None, None]
    options = dict(OPTIONS, pooled=pooled, max_cells=100)
    together = channel_graph_levels(students, teachers, valids, **options)
    apart = [channel_graph_terms(*level, **options) for level in zip(students, teachers, valids, strict=True)]
    factor = torch.tensor([1., 2., 3., 4.], dtype=torch.float64)
    for term, values_together in together.items():
        values_apart = torch.stack([level[term] for level in apart])
        torch.testing.assert_close(values_together, values_apart)
        for one, two in zip(*(torch.autograd.grad(v @ factor, students, retain_graph=True)
                              for v in (values_together, values_apart)), strict=True):
            torch.testing.assert_close(one, two)


def test_no_images_at_several_levels():
    students = [x[:0].requires_grad_() for x in maps(0)]
    sum(sum(found) for found in ChannelGraphLoss(**OPTIONS)(students, [x[:0] for x in maps(1)]).values()).backward()
    assert all(x.grad.shape == x.shape for x in students)
