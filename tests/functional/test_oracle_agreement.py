"""The losses against an oracle that is written with loops from the equations (oracle.py)."""
import numpy as np
import oracle
import pytest
import torch
from scipy.sparse import csgraph

from mmgkd.functional import (
    affinity,
    cells,
    channel_attention,
    channel_graph_terms,
    correlation,
    edge_loss,
    graph,
    moments,
    normalized_laplacian,
    spatial_attention,
    uniform_weight,
    vertex_loss,
)

ATTENTION = [None, ('spatial',), ('channel',), ('relational',), ('spatial', 'channel', 'relational')]
# shape, seed, cells in a run (None: the default), eigenvectors
SIZES = [((2, 5, 4, 6), 54, None, 2), ((1, 7, 3, 5), 15, 4, 6), ((3, 4, 5, 3), 53, 7, 1)]


def assert_agrees(got, want, tolerance=1e-10):
    assert got.keys() == want.keys()
    for term, value in want.items():
        assert value > 1e-4, f'{term} is zero, so the comparison says nothing'
        assert got[term].item() == pytest.approx(value, rel=tolerance), term


@pytest.mark.parametrize('affinity', ['relu', 'abs', 'shift'])
@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('centered', [True, False])
@pytest.mark.parametrize('attention', ATTENTION)
def test_terms_agree_with_the_oracle(attention, centered, padded, spectral, affinity, monkeypatch):
    for shape, seed, chunk, r in SIZES:
        if spectral == 'subspace' and r == shape[1] - 1:
            r -= 1  # everything but the trivial: nothing to compare but that
        if chunk:
            monkeypatch.setattr(cells, 'run_length', lambda feat, chunk=chunk: chunk)
        student, teacher = oracle.example(shape, seed)
        valid = oracle.example_valid(shape) if padded else None
        options = dict(attention=attention, centered=centered, spectral=spectral, affinity=affinity,
                       num_eigenvectors=r)
        got = channel_graph_terms(torch.tensor(student), torch.tensor(teacher),
                                  None if valid is None else torch.tensor(valid), **options)
        assert_agrees(got, oracle.terms(student, teacher, valid, **options))


def test_defaults_agree_with_the_oracle():
    student, teacher = oracle.example((1, 18, 4, 5))
    assert_agrees(channel_graph_terms(torch.tensor(student), torch.tensor(teacher)),
                  oracle.terms(student, teacher, attention=None, centered=True,
                               spectral='rayleigh', affinity='relu', num_eigenvectors=16))


@pytest.mark.parametrize('terms', [('vertex',), ('edge',), ('spectral',), ('spectral', 'vertex')])
def test_a_term_alone_is_what_it_is_among_others(terms):
    student, teacher = map(torch.tensor, oracle.example())
    every = channel_graph_terms(student, teacher, num_eigenvectors=2)
    some = channel_graph_terms(student, teacher, num_eigenvectors=2, terms=terms)
    assert set(some) == set(terms)
    for term in terms:
        torch.testing.assert_close(some[term], every[term], rtol=1e-12, atol=0)


@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
@pytest.mark.parametrize('attention', [None, ('relational',)])
def test_a_pooled_graph_is_that_of_one_image_made_of_all(attention, spectral):
    student, teacher = map(torch.tensor, oracle.example((3, 4, 5, 3), 53))
    options = dict(attention=attention, spectral=spectral, num_eigenvectors=2)
    x, y = student.clone().requires_grad_(), student.clone().requires_grad_()
    one = channel_graph_terms(x, teacher, pooled=True, **options)
    row, teacher_row = (torch.cat(list(z), 1).unsqueeze(0) for z in (y, teacher))
    other = channel_graph_terms(row, teacher_row, **options)
    assert_agrees(one, {term: value.item() for term, value in other.items()}, 1e-10)
    for value in (one, other):
        sum(value.values()).backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-9, atol=1e-12)
    apart = channel_graph_terms(student, teacher, **options)
    assert all(abs(apart[term] - one[term]) > 1e-3 * one[term] for term in one)


def test_a_pooled_graph_of_attentive_images_agrees_with_the_oracle():
    """Each image counts the same; the weight of a channel is the mean of those it has in the images."""
    student, teacher = oracle.example((3, 4, 5, 3), 53)
    cells_s, cells_t = ([oracle.cells_of(image, None) for image in x] for x in (student, teacher))
    omega = [o / 3 for t in cells_t for o in oracle.spatial_weight(t)]
    weight = np.mean([oracle.channel_weight(t) for t in cells_t], 0)
    s, t = np.concatenate(cells_s), np.concatenate(cells_t)
    graphs = [oracle.graph_of(x, omega, True) for x in (s, t)]
    want = dict(vertex=oracle.vertex(s, t, omega, weight, True), edge=oracle.edge(*graphs, weight, False),
                spectral=oracle.rayleigh(*(oracle.laplacian(g, 'relu') for g in graphs), 2))
    got = channel_graph_terms(torch.tensor(student), torch.tensor(teacher), attention=('spatial', 'channel'),
                              pooled=True, num_eigenvectors=2)
    assert_agrees(got, want)


def test_a_pooled_graph_of_no_image():
    nothing = torch.zeros(0, 4, 5, 3, requires_grad=True)
    losses = channel_graph_terms(nothing, nothing.detach(), pooled=True, num_eigenvectors=2)
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize('gram', [True, False])
@pytest.mark.parametrize('shape', [
    (2, 3, 210, 220), (1, 2, 256, 512), (1, 2, 363, 363), (1, 70, 64, 64), (2, 150, 32, 32)])
def test_a_map_larger_than_a_run_with_the_real_run(shape, gram):
    student, teacher = oracle.example(shape)
    assert shape[2] * shape[3] >= cells.run_length(torch.tensor(student))
    omega = np.random.default_rng(0).dirichlet(np.ones(shape[2] * shape[3]), shape[0])
    m = moments(torch.tensor(student), torch.tensor(teacher), torch.tensor(omega), gram=gram)
    for i in range(shape[0]):
        both = np.concatenate([student[i], teacher[i]]).reshape(2 * shape[1], -1)
        cov, c = np.cov(both, aweights=omega[i], ddof=0), shape[1]
        want = cov[:c, :c], cov[c:, c:]
        for got, expected in zip((m.student[i], m.teacher[i]), want, strict=True):
            expected = expected if gram else expected.diagonal()
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(m.cross[i], cov[:c, c:].diagonal(), rtol=1e-10, atol=1e-12)


def test_gradient_does_not_depend_on_the_run(monkeypatch):
    student, teacher = map(torch.tensor, oracle.example((2, 4, 6, 7)))
    gradients = []
    for chunk in (1, 5, 42, 8192):
        monkeypatch.setattr(cells, 'run_length', lambda feat, chunk=chunk: chunk)
        x = student.clone().requires_grad_()
        sum(channel_graph_terms(x, teacher, num_eigenvectors=2).values()).backward()
        gradients.append(x.grad)
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('padded', [False, True])
def test_weights_agree_with_the_oracle(padded):
    _, teacher = oracle.example()
    valid = oracle.example_valid() if padded else np.ones((2, 4, 6), dtype=bool)
    x, mask = torch.tensor(teacher), torch.tensor(valid) if padded else None
    uniform, spatial = uniform_weight(x, mask), spatial_attention(x, mask)
    channel = channel_attention(x, mask)
    for i in range(len(teacher)):
        rows, keep = oracle.cells_of(teacher[i], valid[i]), valid[i].ravel()
        np.testing.assert_allclose(uniform[i][keep], 1 / keep.sum(), rtol=1e-12)
        np.testing.assert_allclose(spatial[i][keep], oracle.spatial_weight(rows), rtol=1e-12)
        np.testing.assert_allclose(channel[i], oracle.channel_weight(rows), rtol=1e-12)
        assert (uniform[i][~keep] == 0).all() and (spatial[i][~keep] == 0).all()
    torch.testing.assert_close(spatial.sum(-1), torch.ones(2).double())
    torch.testing.assert_close(channel.mean(-1), torch.ones(2).double())


@pytest.mark.parametrize('temperature', [0.1, 2.])
def test_temperature_and_uniform_share(temperature):
    energy = torch.tensor([[0.5, 1.0, 0.2, 0.1]]).double()
    teacher = torch.stack([-2 * energy, 0 * energy], 1).view(1, 2, 2, 2)
    focus = (energy / energy.mean() / temperature).softmax(-1)
    for uniform in (0., 0.25, 1.):
        got = spatial_attention(teacher, temperature=temperature, uniform=uniform)
        torch.testing.assert_close(got, uniform / 4 + (1 - uniform) * focus)
    size = teacher.abs().mean((2, 3))
    want = 2 * (size / size.mean() / temperature).softmax(-1)
    torch.testing.assert_close(channel_attention(teacher, temperature=temperature), want)
    for name in ('spatial', 'channel'):
        losses = [channel_graph_terms(teacher.flip(2), teacher + torch.eye(2).double(), terms=('vertex',),
                                      attention=(name,), temperature=t)['vertex'] for t in (temperature, 0.5)]
        assert abs(losses[0] - losses[1]) > 1e-4


def test_numbers_worked_by_hand():
    # two channels, four cells; the student's second channel is turned against the teacher's
    teacher = torch.tensor([[1., -1, 1, -1], [1, 1, -1, -1]]).view(1, 2, 2, 2)
    student = torch.tensor([[3., 1, 3, 1], [-1, 1, -1, 1]]).view(1, 2, 2, 2)
    got = channel_graph_terms(student, teacher, attention=None, terms=('vertex', 'edge'))
    assert got['vertex'].item() == pytest.approx((0 + 1) / 2)  # r = 1, and orthogonal: r = 0
    assert got['edge'].item() == pytest.approx(1)  # (-1 - 0)^2 both ways
    got = channel_graph_terms(student, teacher, attention=None, terms=('vertex', 'edge'), centered=False)
    assert got['vertex'].item() == pytest.approx((1 - 1 / 5 ** 0.5 + 1) / 2)  # <s, t> = 4, norms 20^.5 and 2
    assert got['edge'].item() == pytest.approx(1 / 5)  # <s_1, s_2> = -4, norms 20^.5 and 2


def test_vertex_and_edge_by_themselves():
    rng = torch.Generator().manual_seed(0)
    s2, t2, w = torch.rand(3, 2, 4, generator=rng) + 0.1
    cross = torch.rand(2, 4, generator=rng) * (s2 * t2).sqrt()
    want = [sum(w[i, c] * (1 - cross[i, c] / (s2[i, c] * t2[i, c]) ** 0.5) for c in range(4)) / 4
            for i in range(2)]
    torch.testing.assert_close(vertex_loss(s2, t2, cross, w), torch.stack(want))
    s, t, m = torch.rand(3, 2, 4, 4, generator=rng)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    want = [sum(m[n, i, j] * (s[n, i, j] - t[n, i, j]) ** 2 for i, j in pairs)
            / sum(m[n, i, j] for i, j in pairs) for n in range(2)]
    torch.testing.assert_close(edge_loss(s, t, m), torch.stack(want))
    assert edge_loss(s, t, torch.zeros_like(m)).tolist() == [0, 0]


def test_graph_by_itself():
    x = torch.tensor(np.random.default_rng(0).normal(size=(5, 12)))
    a = correlation((x @ x.mT)[None], torch.ones(1, 5, dtype=torch.bool))[0]
    torch.testing.assert_close(a, torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1))
    want = {'relu': a.clamp(min=0), 'abs': a.abs(), 'shift': (1 + a) / 2}
    for kind, expected in want.items():
        p = affinity(a[None], kind)[0]
        torch.testing.assert_close(p, expected - expected.diag().diag())
        lap = csgraph.laplacian(p.numpy(), normed=True)
        np.testing.assert_allclose(normalized_laplacian(p[None])[0], lap, atol=1e-12)


def test_an_isolated_vertex_has_the_row_of_the_identity():
    p = torch.tensor([[0., 1, 0], [1, 0, 0], [0, 0, 0]])
    want = torch.tensor([[1., -1, 0], [-1, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(normalized_laplacian(p[None])[0], want)


def test_degrees_of_weak_vertices_are_clamped():
    weak = graph.MIN_DEGREE / 4
    p = torch.tensor([[0., weak, 0], [weak, 0, 1], [0, 1, 0]])
    lap = normalized_laplacian(p[None])[0]
    assert lap[0, 1].item() == pytest.approx(-weak / (graph.MIN_DEGREE * (1 + weak)) ** 0.5)
    assert lap[1, 2].item() == pytest.approx(-1 / (1 + weak) ** 0.5)
    torch.testing.assert_close(lap.diagonal(), torch.ones(3))


def test_correlations_of_channels_that_are_not_alive_are_zero():
    x = torch.tensor(np.random.default_rng(0).normal(size=(5, 12)))
    alive = torch.tensor([[True, False, True, True, False]])
    want = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1) * (alive * alive.mT)
    torch.testing.assert_close(correlation((x @ x.mT)[None], alive)[0], want)


def test_which_channels_are_alive():
    x = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    x *= torch.tensor([1, 0, 1e-4, 1, 3]).view(5, 1, 1)
    x += torch.tensor([0, 0, 0, -100., 0]).view(5, 1, 1)
    x[:, 4] = 3.3
    for gram in (True, False):
        m = moments(x, x.flip(1), uniform_weight(x), gram=gram)
        assert m.student_alive.tolist() == [[True, False, True, True, False]]
        assert m.teacher_alive.tolist() == [[False, True, True, False, True]]
