"""InfoNCE, nearest neighbours and the convolution on them, against loops."""
import math

import pytest
import torch
from torch.autograd import gradcheck

from mmgkd.functional import contrast, info_nce, knn_graph, prediction_graph, tag_convolution, unit_rows

N, Q, D = 4, 7, 3


def example(seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, D, generator=g, dtype=dtype) for n in (N, N, Q)]


def counts_of(kind, seed=1):
    g = torch.Generator().manual_seed(seed)
    if kind == 'all':
        return None
    if kind == 'mask':
        return torch.rand(N, Q, generator=g) < .5
    return torch.randint(0, 4, (N, Q), generator=g).double()


def nce_loop(anchor, positive, negatives, counts, temperature):
    """The equation, one exponential after the other."""
    total = 0
    for i in range(len(anchor)):
        true = math.exp(sum(a * p for a, p in zip(anchor[i], positive[i], strict=True)) / temperature)
        others = 0
        for m in range(len(negatives)):
            times = 1 if counts is None else int(counts[i][m])
            for _ in range(times):
                others += math.exp(sum(a * v for a, v in zip(anchor[i], negatives[m], strict=True)) / temperature)
        total += -math.log(true / (true + others))
    return total / len(anchor)


@pytest.mark.parametrize('rows', [1, 3, 100])
@pytest.mark.parametrize('kind', ['all', 'mask', 'counts'])
@pytest.mark.parametrize('temperature', [.07, .5])
def test_info_nce_is_its_equation(monkeypatch, kind, temperature, rows):
    monkeypatch.setattr(contrast, 'SCORES', rows * Q)
    anchor, positive, negatives = (unit_rows(x) for x in example())
    counts = counts_of(kind)
    want = nce_loop(anchor.tolist(), positive.tolist(), negatives.tolist(),
                    None if counts is None else counts.tolist(), temperature)
    got = info_nce(anchor, positive, negatives, counts, temperature=temperature)
    assert got.dtype == torch.float64 and got.item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize('rows', [1, 3, 100])
@pytest.mark.parametrize('kind', ['all', 'mask', 'counts'])
def test_info_nce_gradient(monkeypatch, kind, rows):
    monkeypatch.setattr(contrast, 'SCORES', rows * Q)
    anchor, positive, negatives = (unit_rows(x) for x in example())
    counts = counts_of(kind)
    assert gradcheck(lambda a: 3 * info_nce(a, positive, negatives, counts), anchor.requires_grad_())


def test_info_nce_gives_keys_no_gradient_and_lets_a_memory_change():
    anchor, positive, negatives = (x.requires_grad_() for x in example())
    info_nce(anchor, positive, negatives).backward()
    assert positive.grad is None and negatives.grad is None
    want = anchor.grad.clone()
    anchor.grad = None
    value = info_nce(anchor, positive, negatives)
    with torch.no_grad():
        negatives.zero_()
        positive.zero_()
    value.backward()
    assert torch.equal(anchor.grad, want)


def test_info_nce_keeps_nothing_of_the_size_of_the_memory():
    anchor, positive, negatives = (x.requires_grad_() for x in example())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        info_nce(anchor, positive, negatives)
    assert kept == [(N, D)]


def test_info_nce_starts_near_the_logarithm_of_the_number_of_negatives():
    """ln(M + 1) for negatives that tell nothing, 1 / (2 D T^2) more for random ones: 10.5 in the published set-up."""
    m, d, t = 16384, 128, .07
    g = torch.Generator().manual_seed(0)
    anchor = unit_rows(torch.randn(256, d, generator=g))
    memory = (2 * torch.rand(m + 256, d, generator=g) - 1) * (d / 3) ** -.5
    got = info_nce(anchor, memory[:256], memory[256:], temperature=t).item()
    assert math.log(m + 1) == pytest.approx(9.70, abs=.01)
    assert got == pytest.approx(math.log(m + 1) + 1 / (2 * d * t * t), abs=.2)
    flat = info_nce(anchor, memory[:256] * 0, memory[256:] * 0, temperature=t).item()
    assert flat == pytest.approx(math.log(m + 1), rel=1e-5)


def test_info_nce_of_a_found_positive_is_zero():
    anchor = torch.eye(D, dtype=torch.float64)
    assert info_nce(anchor, anchor, -anchor, temperature=.01).item() == pytest.approx(0, abs=1e-40)


@pytest.mark.parametrize('anchors, negatives', [(0, Q), (N, 0), (0, 0)])
def test_info_nce_without_anchors_or_negatives(anchors, negatives):
    anchor, positive, memory = example()
    anchor = anchor[:anchors].requires_grad_()
    value = info_nce(anchor, positive[:anchors], memory[:negatives])
    value.backward()
    assert value == 0 and anchor.grad.shape == anchor.shape and not anchor.grad.any()


@pytest.mark.parametrize('counts', [torch.zeros(N, Q, dtype=torch.bool), torch.zeros(N, Q)])
def test_info_nce_of_no_negative_at_all(counts):
    anchor, positive, memory = example()
    value = info_nce(anchor.requires_grad_(), positive, memory, counts)
    value.backward()
    assert value == 0 and not anchor.grad.any()


def test_info_nce_in_half_precision_and_under_autocast():
    anchor, positive, negatives = (unit_rows(x) for x in example(dtype=torch.float32))
    want = info_nce(anchor, positive, negatives)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(info_nce(anchor, positive, negatives), want)
    half = anchor.bfloat16().requires_grad_()
    value = info_nce(half, positive, negatives)
    value.backward()
    assert value.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    assert value.item() == pytest.approx(want.item(), rel=.05)


def test_info_nce_of_large_scores_is_finite():
    anchor, positive, negatives = (100 * x for x in example(dtype=torch.float32))
    value = info_nce(anchor.requires_grad_(), positive, negatives, temperature=1e-3)
    value.backward()
    assert value.isfinite() and anchor.grad.isfinite().all()


@pytest.mark.parametrize('change, message', [
    (dict(anchor=torch.zeros(N, D, 1)), r'must be \(N, D\)'),
    (dict(positive=torch.zeros(N + 1, D)), r'must be \(N, D\)'),
    (dict(negatives=torch.zeros(Q, D + 1)), r'negatives \(Q, D\), got'),
    (dict(counts=torch.ones(Q, N)), r'counts must be \(N, Q\) = \(4, 7\), got \(7, 4\)'),
    (dict(temperature=0), 'temperature must be above 0, got 0')])
def test_info_nce_errors(change, message):
    arguments = dict(zip(('anchor', 'positive', 'negatives'), example(), strict=True), counts=None) | change
    with pytest.raises(ValueError, match=message):
        info_nce(arguments.pop('anchor'), arguments.pop('positive'), arguments.pop('negatives'), **arguments)


def test_unit_rows():
    x = torch.tensor([[3., 4.], [0., 0.], [1e-20, 0], [1e-9, 0]], dtype=torch.float64, requires_grad=True)
    y = unit_rows(x)
    assert torch.equal(y, torch.tensor([[.6, .8], [0, 0], [0, 0], [1, 0]], dtype=torch.float64))
    y.sum().backward()
    assert x.grad.isfinite().all() and not x.grad[1:3].any()
    assert gradcheck(unit_rows, torch.randn(N, D, dtype=torch.float64, requires_grad=True))


# ---- graphs

def knn_loop(points, k):
    """Nb(i) of each i, by sorting distances."""
    found = []
    for i, x in enumerate(points):
        distances = []
        for j, y in enumerate(points):
            dot = sum(a * b for a, b in zip(x, y, strict=True))
            lengths = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
            distances.append((-1 if i == j else 1 - dot / max(lengths, 1e-7), j))
        found.append({j for _, j in sorted(distances)[:k]})
    return found


def neighbours_of(graph):
    assert set(graph.unique().tolist()) <= {0, 1}
    return [set(row.nonzero().flatten().tolist()) for row in graph]


def points(n=9, d=4, seed=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize('k', [1, 3, 8, 9, 20])
def test_knn_graph_is_that_of_loops(k):
    x = points()
    assert neighbours_of(knn_graph(x, k)) == knn_loop(x.tolist(), k)


@pytest.mark.parametrize('k', [1, 3, 8])
def test_prediction_graph_is_that_of_loops(k):
    logits = points()
    probabilities = [[math.exp(v) / sum(math.exp(u) for u in row) for v in row] for row in logits.tolist()]
    assert neighbours_of(prediction_graph(logits, k)) == knn_loop(probabilities, k)
    assert neighbours_of(prediction_graph(logits + 7, k)) == knn_loop(probabilities, k)  # softmax: shifts do not count


@pytest.mark.parametrize('n', [0, 1, 2])
@pytest.mark.parametrize('graph', [knn_graph, prediction_graph])
def test_graphs_of_few_points(graph, n):
    assert torch.equal(graph(points(n), 8), torch.ones(n, n, dtype=torch.float64))


@pytest.mark.parametrize('x', [torch.zeros(9, 4), torch.ones(9, 4), 1e-20 * torch.ones(9, 4)])
def test_points_that_coincide_are_among_their_own_neighbours(x):
    graph = knn_graph(x, 3)
    assert (graph.diagonal() == 1).all() and (graph.sum(1) == 3).all()


def test_knn_graph_is_invariant_to_scale_and_permutes_with_the_points():
    x = points()
    scale, order = torch.rand(9, 1, dtype=x.dtype) + .1, torch.randperm(9)
    graph = knn_graph(x, 4)
    assert torch.equal(knn_graph(scale * x, 4), graph)
    assert torch.equal(knn_graph(x[order], 4), graph[order][:, order])


def test_graphs_have_no_gradient_and_work_in_float32():
    x = points().requires_grad_()
    assert not prediction_graph(x).requires_grad and not knn_graph(x).requires_grad
    assert prediction_graph(x.bfloat16()).dtype == torch.float32 and knn_graph(x).dtype == torch.float64


@pytest.mark.parametrize('k', [1, 4, 9])
def test_tag_convolution_is_a_linear_map_of_nodes_beside_neighbour_means(k):
    x, (weight, bias) = points(), (torch.randn(5, 8, dtype=torch.float64), torch.randn(5, dtype=torch.float64))
    graph = knn_graph(x, k)
    got = tag_convolution(x, graph, weight, bias)
    for i, near in enumerate(neighbours_of(graph)):
        mean = [sum(x[j][c].item() for j in near) / len(near) for c in range(4)]
        for o in range(5):
            want = bias[o] + sum(w * v for w, v in zip(weight[o].tolist(), [*x[i].tolist(), *mean], strict=True))
            assert got[i, o].item() == pytest.approx(want.item(), rel=1e-12)
    a = graph * k ** -.5 * k ** -.5  # D^-1/2 A D^-1/2, D the in-degree
    assert torch.allclose(got, x @ weight[:, :4].T + a @ x @ weight[:, 4:].T + bias, rtol=1e-12)


def test_tag_convolution_gradient():
    x, graph = points(5), knn_graph(points(5), 2)
    weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 8), (3,)))
    assert gradcheck(lambda x, w, b: tag_convolution(x, graph, w, b), (x.requires_grad_(), weight, bias))


@pytest.mark.parametrize('n', [0, 1])
def test_tag_convolution_of_few_nodes(n):
    x, weight = points(n).requires_grad_(), torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    tag_convolution(x, knn_graph(x), weight).sum().backward()
    assert x.grad.shape == x.shape and weight.grad.any() == bool(n)


def test_tag_convolution_leaves_autocast():
    x, weight = points().float(), torch.randn(3, 8)
    want = tag_convolution(x, knn_graph(x), weight)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(tag_convolution(x, knn_graph(x), weight), want)
