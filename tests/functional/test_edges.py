"""The core of all relational losses: graphs of nodes, which edges count, and how two graphs differ."""
import math

import pytest
import torch

from mmgkd.functional import (
    correlation,
    edge_loss,
    match_edges,
    moments,
    normalize_edges,
    similarity_graph,
    teacher_knn_mask,
    uniform_weight,
)

GRAPHS = [dict(similarity='cosine', rectify=r) for r in (None, 'relu', 'abs', 'shift')] + [
    dict(similarity='distance'), dict(similarity='gram')]
NORMALIZATIONS = ['degree', 'mean', 'row', 'none']
VALID = torch.tensor([[True, True, True, True, False], [True, False, True, True, True]])
POSSIBLE = [dict(graph, normalize=n) for graph in GRAPHS for n in NORMALIZATIONS
            if n != 'degree' or graph.get('rectify')]


def name_of(options):
    return '-'.join(str(v) for v in options.values())


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def nodes(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*(shape or (2, 5, 4)), generator=generator(seed), dtype=torch.float64).to(dtype)


def related(x, y, similarity, rectify):
    inner = sum(a * b for a, b in zip(x, y, strict=True))
    if similarity == 'gram':
        return inner
    if similarity == 'distance':
        return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
    cos = inner / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))
    return {None: cos, 'relu': max(cos, 0), 'abs': abs(cos), 'shift': (1 + cos) / 2}[rectify]


def by_loops(x, valid=None, similarity='cosine', rectify=None, normalize='none', loops=False):
    """One graph (V, V) of nodes (V, D)."""
    x, v = x.tolist(), len(x)
    a = [[0.] * v for _ in range(v)]
    for i in range(v):
        for j in range(v):
            if (loops or i != j) and (valid is None or (valid[i] and valid[j])):
                a[i][j] = related(x[i], x[j], similarity, rectify)
    out = [row[:] for row in a]
    above = [e for row in a for e in row if e > 0]
    for i in range(v):
        for j in range(v):
            if normalize == 'degree':
                out[i][j] /= math.sqrt(max(sum(a[i]), 0.01) * max(sum(a[j]), 0.01))
            elif normalize == 'mean':
                out[i][j] /= sum(above) / len(above)
            elif normalize == 'row':
                out[i][j] /= math.sqrt(sum(e * e for e in a[i])) or 1
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize('options', POSSIBLE, ids=name_of)
@pytest.mark.parametrize('valid', [None, VALID], ids=['whole', 'padded'])
@pytest.mark.parametrize('loops', [False, True])
def test_graphs_agree_with_loops(loops, valid, options):
    x = nodes()
    got = similarity_graph(x, valid, loops=loops, **options)
    want = torch.stack([by_loops(x[i], None if valid is None else valid[i].tolist(), loops=loops, **options)
                        for i in range(2)])
    assert want.abs().max() > 0.1
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_defaults_are_the_plain_cosines_without_loops():
    torch.testing.assert_close(similarity_graph(nodes()), torch.stack([by_loops(x) for x in nodes()]))


@pytest.mark.parametrize('options', POSSIBLE, ids=name_of)
def test_what_is_not_a_node_does_not_matter(options):
    x, other = nodes(), nodes(seed=1)
    changed = torch.where(VALID.unsqueeze(-1), x, other)
    torch.testing.assert_close(similarity_graph(changed, VALID, **options), similarity_graph(x, VALID, **options))
    alone = similarity_graph(x[:1, :4], **options)
    torch.testing.assert_close(similarity_graph(x, VALID, **options)[:1, :4, :4], alone)


@pytest.mark.parametrize('options', POSSIBLE, ids=name_of)
def test_graphs_permute_with_their_nodes(options):
    order = torch.tensor([3, 0, 4, 1, 2])
    want = similarity_graph(nodes(), **options)[:, order][..., order]
    torch.testing.assert_close(similarity_graph(nodes()[:, order], **options), want)


@pytest.mark.parametrize('options', POSSIBLE, ids=name_of)
def test_named_invariances(options):
    x, scale = nodes(), 0.5 + nodes(2, 5, 1, seed=1).abs()
    rotation = torch.linalg.qr(nodes(4, 4, seed=2))[0]
    want = similarity_graph(x, **options)
    torch.testing.assert_close(similarity_graph(x @ rotation, **options), want)
    per_node = torch.allclose(similarity_graph(scale * x, **options), want)
    shift = torch.allclose(similarity_graph(x + 3, **options), want)
    factor = torch.allclose(similarity_graph(2.5 * x, **options), want)
    assert per_node == (options['similarity'] == 'cosine')
    assert shift == (options['similarity'] == 'distance')
    assert factor == (options['similarity'] == 'cosine' or options['normalize'] in ('mean', 'row'))


def test_degrees_make_the_spectral_radius_one():
    graph = similarity_graph(nodes(3, 20, 6), rectify='relu', normalize='degree')
    torch.testing.assert_close(torch.linalg.eigvalsh(graph)[:, -1], torch.ones(3).double())


@pytest.mark.parametrize('v, want', [(8, 1.145), (32, 1.033), (128, 1.009)])
def test_the_norm_is_near_one_for_any_number_of_nodes(v, want):
    x = torch.rand(20, v, 64, generator=generator())
    squared = similarity_graph(x, rectify='relu', normalize='degree').square().sum((1, 2)).mean().item()
    assert squared == pytest.approx(want, abs=3e-3)


def test_the_cosine_graph_is_that_of_the_channel_graph():
    x = nodes(2, 6, 4, 5)
    m = moments(x, x, uniform_weight(x), centered=False)
    torch.testing.assert_close(similarity_graph(x.flatten(2), loops=True), correlation(m.student, m.student_alive))


def test_the_channel_graphs_edge_term_is_a_weighted_mse():
    s, t = (similarity_graph(nodes(seed=seed)) for seed in (0, 1))
    weight = 0.1 + torch.rand(2, 5, 5, generator=generator()).double()
    off = weight * (1 - torch.eye(5).double())
    torch.testing.assert_close(edge_loss(s, t, weight), match_edges(s, t, off, metric='mse'), rtol=0, atol=0)


def test_options_that_do_not_go_together():
    for options, names in ((dict(similarity='l2'), ['similarity', 'cosine', 'l2']),
                           (dict(rectify='square'), ['rectify', 'relu', 'square']),
                           (dict(normalize='max'), ['normalize', 'degree', 'max']),
                           (dict(similarity='gram', rectify='relu'), ['rectify', 'cosine', 'gram']),
                           (dict(normalize='degree'), ['degree', 'rectify']),
                           (dict(similarity='distance', normalize='degree'), ['degree', 'rectify'])):
        with pytest.raises(ValueError) as error:
            similarity_graph(nodes(), **options)
        assert all(name in str(error.value) for name in names)


# precision

@pytest.mark.parametrize('offset', [0, 1e3])
@pytest.mark.parametrize('d', [4, 2000])
def test_distances_in_float32_where_the_mean_dwarfs_them(offset, d):
    x = (nodes(1, 12, d) + offset).float()
    want = torch.cdist(x.double(), x.double())
    torch.testing.assert_close(similarity_graph(x, similarity='distance').double(), want, rtol=1e-5, atol=0)


@pytest.mark.parametrize('factor', [1e-9, 1e15])
def test_rows_of_any_magnitude(factor):
    """The squares of such inner products are not within float32."""
    x = nodes().float()
    options = dict(similarity='gram', normalize='row', loops=True)
    big = (factor * x).requires_grad_()
    got = similarity_graph(big, **options)
    torch.testing.assert_close(got, similarity_graph(x, **options))
    got.square().square().sum().backward()
    assert big.grad.isfinite().all() and big.grad.any()


@pytest.mark.parametrize('options', POSSIBLE, ids=name_of)
def test_autocast_and_half_precision(options):
    x = nodes(2, 5, 300).bfloat16()
    want = similarity_graph(x.float(), **options)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        got = similarity_graph(x, **options)
    assert got.dtype == torch.float32 and torch.equal(got, want)


def test_no_copy_of_the_nodes_is_kept():
    x, kept = torch.randn(2, 6, 5000, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        similarity_graph(x, rectify='relu', normalize='degree')
    assert {t.data_ptr() for t in kept if t.numel() >= x.numel()} == {x.data_ptr()}


# nothing, little, and nothing to tell apart

@pytest.mark.parametrize('options', POSSIBLE, ids=name_of)
@pytest.mark.parametrize('shape', [(0, 5, 4), (2, 0, 4), (2, 1, 4), (2, 2, 4), (2, 5, 1), (2, 5, 0)])
def test_small_graphs(shape, options):
    x = nodes(*shape).requires_grad_()
    graph = similarity_graph(x, **options)
    assert graph.shape == (*shape[:2], shape[1]) and graph.isfinite().all()
    graph.sum().backward()
    assert x.grad.shape == shape and x.grad.isfinite().all()
    if shape[1] == 1:
        assert not graph.any()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('options', POSSIBLE, ids=name_of)
@pytest.mark.parametrize('kind', ['zero', 'one zero', 'constant', 'pairs', 'tiny', 'opposite'])
def test_degenerate_nodes_are_finite(kind, options, dtype):
    x = nodes(1, 6, 4)
    x = {'zero': 0 * x, 'one zero': x * (torch.arange(6) > 0).view(1, 6, 1), 'constant': x[:, :1].repeat(1, 6, 1),
         'pairs': x[:, :3].repeat(1, 2, 1), 'tiny': 1e-20 * x, 'opposite': x[:, :3].repeat(1, 2, 1) *
         torch.tensor([1, 1, 1, -1, -1, -1]).view(1, 6, 1)}[kind].to(dtype).requires_grad_()
    graph = similarity_graph(x, **options)
    assert graph.isfinite().all()
    graph.square().sum().backward()
    assert x.grad.isfinite().all()
    if kind in ('zero', 'constant') and options['similarity'] == 'distance':
        assert not graph.any() and not x.grad.any()
    if kind == 'zero':
        assert not x.grad.any()


@pytest.mark.parametrize('v, d', [(3, 2001), (5, 333), (33, 700), (17, 2001)])
@pytest.mark.parametrize('offset', [0., 3., 1e3])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_nodes_that_coincide_have_distance_zero_and_no_gradient(dtype, offset, v, d):
    """Their inner products differ by rounding."""
    x = (nodes(1, v, d) + offset).to(dtype)
    x = torch.cat([x, x], 1).requires_grad_()
    graph = similarity_graph(x, similarity='distance')
    same = torch.eye(v).repeat(2, 2).bool()
    assert not graph[0, same].any() and (graph[0, ~same] > 1).all()
    assert not torch.autograd.grad(graph[0, same].sum(), x)[0].any()


# the neighbours

def neighbours_by_loops(graph, k):
    """(V, V) bool, of a graph without equal edges."""
    v = len(graph)
    chosen = [sorted(range(v), key=lambda j: -graph[i][j])[:k] for i in range(v)]
    return torch.tensor([[j in chosen[i] or i in chosen[j] for j in range(v)] for i in range(v)])


@pytest.mark.parametrize('k', [1, 2, 4])
def test_neighbours_agree_with_loops(k):
    graph = similarity_graph(nodes(3, 8, 5), rectify='shift', normalize='degree')
    want = torch.stack([neighbours_by_loops(g.tolist(), k) for g in graph])
    got = teacher_knn_mask(graph, k)
    assert torch.equal(got, want) and torch.equal(got, got.mT)
    assert not got.all() and (got.sum(-1) >= k).all() and (got.sum(-1) > k).any()


def test_as_many_neighbours_as_nodes():
    graph = similarity_graph(nodes(), rectify='relu')
    for k in (5, 6, 128):
        assert teacher_knn_mask(graph, k).all()
    assert teacher_knn_mask(graph[:0], 2).shape == (0, 5, 5) and teacher_knn_mask(graph[:, :0, :0], 2).numel() == 0


def test_equal_edges_all_count():
    graph = torch.tensor([[[0, 3, 2, 2, 1], [3, 0, 0, 0, 0], [2, 0, 0, 0, 5], [2, 0, 0, 0, 0], [1, 0, 5, 0, 0.]]])
    keep = teacher_knn_mask(graph, 2)[0]
    assert keep[0].tolist() == [False, True, True, True, True]  # the last because 0 is among the two nearest of 4
    assert keep[4].tolist() == [True, True, True, True, False]  # 1 and 3 have but one edge, and all zeros tie
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.equal(teacher_knn_mask(graph[:, order][..., order], 2)[0], keep[order][:, order])


@pytest.mark.parametrize('k', [0, -3])
def test_too_few_neighbours(k):
    with pytest.raises(ValueError, match=f'k must be at least 1, got {k}'):
        teacher_knn_mask(torch.zeros(1, 3, 3), k)


# the difference

def huber(x):
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


@pytest.mark.parametrize('shape', [(2, 5, 5), (3, 2, 4, 3)])
@pytest.mark.parametrize('metric', ['frobenius', 'mse', 'smooth_l1'])
@pytest.mark.parametrize('kind', ['none', 'real', 'bool', 'zero'])
def test_differences_agree_with_loops(kind, metric, shape):
    student, teacher = 2 * nodes(*shape), nodes(*shape, seed=1)
    weight = {'none': None, 'real': nodes(*shape, seed=2).abs(), 'bool': nodes(*shape, seed=2) > 0,
              'zero': torch.zeros(shape).double()}[kind]
    want = []
    for i in range(shape[0]):
        w = torch.ones(shape[1:]) if weight is None else weight[i]
        pairs = list(zip(*(x.flatten().tolist() for x in (student[i], teacher[i], w)), strict=True))
        total = sum(m * (huber(s - t) if metric == 'smooth_l1' else (s - t) ** 2) for s, t, m in pairs)
        want.append(total / (1 if metric == 'frobenius' else sum(m for *_, m in pairs) or 1))
    torch.testing.assert_close(match_edges(student, teacher, weight, metric=metric), torch.tensor(want).double())


def test_the_difference_is_the_squared_norm_by_default():
    s, t = nodes(), nodes(seed=1)
    torch.testing.assert_close(match_edges(s, t), torch.linalg.matrix_norm(s - t).square())


@pytest.mark.parametrize('metric', ['frobenius', 'mse', 'smooth_l1'])
def test_the_teacher_gets_no_gradient(metric):
    s, t = nodes().requires_grad_(), nodes(seed=1).requires_grad_()
    match_edges(s, t, metric=metric).sum().backward()
    assert s.grad.any() and t.grad is None
    assert not match_edges(s, s.detach(), metric=metric).any()


@pytest.mark.parametrize('shape', [(0, 4, 4), (2, 0, 0)])
@pytest.mark.parametrize('metric', ['frobenius', 'mse', 'smooth_l1'])
def test_no_edges_are_a_zero_with_a_gradient(metric, shape):
    s = torch.zeros(shape, requires_grad=True)
    for weight in (None, torch.ones(shape)):
        value = match_edges(s, torch.zeros(shape), weight, metric=metric)
        assert value.tolist() == [0.] * shape[0]
        value.sum().backward()
    assert s.grad.shape == shape


def test_errors_of_the_difference():
    with pytest.raises(ValueError, match=r'same nodes, got .*\(2, 5, 4\) and \(2, 4, 4\)'):
        match_edges(nodes(), nodes()[:, 1:])
    with pytest.raises(ValueError, match="metric must be one of .*smooth_l1.*got 'l1'"):
        match_edges(nodes(), nodes(), metric='l1')


def test_a_graph_without_edges_stays_one():
    for how in NORMALIZATIONS:
        x = torch.zeros(2, 3, 3, requires_grad=True)
        graph = normalize_edges(x, how)
        graph.sum().backward()
        assert not graph.any() and x.grad.isfinite().all()


@pytest.mark.parametrize('options', POSSIBLE, ids=name_of)
@pytest.mark.parametrize('metric', ['frobenius', 'mse', 'smooth_l1'])
def test_gradcheck(metric, options):
    teacher = similarity_graph(nodes(2, 4, 3, seed=1), **options)
    valid = torch.tensor([[True] * 4, [True] * 3 + [False]])
    for mask in (None, valid):
        torch.autograd.gradcheck(
            lambda x, mask=mask: match_edges(similarity_graph(x, mask, **options), teacher, metric=metric),
            nodes(2, 4, 3).requires_grad_())


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="normalize must be one of .*got 'rows'"):
        normalize_edges(torch.rand(1, 3, 3), 'rows')
