"""Nodes of cells compressed to one vector: against numpy's SVD, and free of what an eigen-solver may choose."""
import numpy as np
import pytest
import torch

from mmgkd.functional import aligned_vectors, compression, mean_vectors, principal_vectors

SHAPES = [(3, 6), (6, 3), (5, 5), (5, 6), (6, 5), (1, 4), (4, 1), (2, 3), (40, 36), (36, 40)]
"""Fewer cells than channels, more, about as many; more of both than are decomposed as a whole."""


def example(p, c, nodes=3, seed=2):
    """Cells (V, P, C), not negative, and a direction (V, C) for each node."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(nodes, p, c)).clip(0) + .1, rng.normal(size=(nodes, c))


def svd_of(cells):
    return np.linalg.svd(cells, full_matrices=False)[2]


def principal(x):
    vectors = []
    for cells in x:
        v = svd_of(cells)[0]
        along = sum(sum(cell[c] * v[c] for c in range(len(v))) for cell in cells)
        vectors.append(v if along >= 0 else -v)
    return np.array(vectors)


def aligned(x, targets, candidates=4):
    vectors = []
    for cells, target in zip(x, targets, strict=True):
        best, kept = -1, None
        for v in svd_of(cells)[:candidates]:
            cosine = sum(a * b for a, b in zip(v, target, strict=True))
            if abs(cosine) > best:
                best, kept = abs(cosine), v if cosine >= 0 else -v
        vectors.append(kept)
    return np.array(vectors)


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_agrees_with_the_svd(shape):
    x, target = example(*shape)
    torch.testing.assert_close(principal_vectors(torch.tensor(x)), torch.tensor(principal(x)), rtol=0, atol=1e-6)
    for k in (1, 2, 4):
        got = aligned_vectors(torch.tensor(x), torch.tensor(target), candidates=k)
        # of the larger ones the later vectors are found by iteration, to about four digits
        torch.testing.assert_close(got, torch.tensor(aligned(x, target, k)), rtol=0,
                                   atol=1e-6 if k == 1 or min(shape) <= 32 else 1e-3)


def test_mean():
    x, _ = example(5, 4)
    want = [[sum(cell[c] for cell in cells) for c in range(4)] for cells in x]
    want = [[a / sum(b * b for b in v) ** .5 for a in v] for v in want]
    torch.testing.assert_close(mean_vectors(torch.tensor(x)), torch.tensor(want).double())


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_gradient_is_the_slope_of_the_svd(shape):
    """None is lost where cells and channels are as many, as it is in the authors' code."""
    x, target = example(*shape)
    rng = np.random.default_rng(1)
    direction, probe = rng.normal(size=x.shape), rng.normal(size=target.shape)
    for k in (1, 4) if min(shape) <= 32 else (1,):
        leaf = torch.tensor(x).requires_grad_()
        (aligned_vectors(leaf, torch.tensor(target), candidates=k) * torch.tensor(probe)).sum().backward()
        ends = [(aligned(x + step * direction, target, k) * probe).sum() for step in (1e-5, -1e-5)]
        slope = (ends[0] - ends[1]) / 2e-5
        assert abs(slope) > 1e-3 or shape[1] == 1  # one channel has but one direction
        assert (leaf.grad * torch.tensor(direction)).sum().item() == pytest.approx(slope, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize('shape', [(3, 5), (5, 3), (4, 4)], ids=str)
@pytest.mark.parametrize('candidates', [1, 3])
def test_gradcheck(shape, candidates):
    x, target = map(torch.tensor, example(*shape, nodes=2, seed=7))  # gaps above 0.03, which are blurred little
    assert torch.autograd.gradcheck(
        lambda s: aligned_vectors(s, target, candidates=candidates), x.requires_grad_(), rtol=1e-3)
    assert torch.autograd.gradcheck(mean_vectors, x)


# what an eigen-solver may choose

def other_solver(matrix):
    """Another sign for each eigenvector."""
    values, vectors = torch.linalg.eigh(matrix)
    signs = torch.randint(0, 2, vectors.shape[:-2] + (1, vectors.shape[-1])) * 2 - 1
    return values, vectors * signs


@pytest.mark.parametrize('shape', [(3, 6), (6, 3), (40, 36)], ids=str)
def test_signs_of_the_solver_do_not_matter(shape, monkeypatch):
    x, target = map(torch.tensor, example(*shape))
    want = principal_vectors(x), aligned_vectors(x, target)
    monkeypatch.setattr(compression, 'eigh_or_nan', other_solver)
    for seed in range(4):
        torch.manual_seed(seed)
        torch.testing.assert_close((principal_vectors(x), aligned_vectors(x, target)), want)


@pytest.mark.parametrize('shape', [(4, 6), (6, 4)], ids=str)
def test_the_vector_of_what_is_not_negative_is_not_negative(shape):
    x, _ = example(*shape)
    assert (principal_vectors(torch.tensor(x)) >= 0).all()
    assert (principal_vectors(-torch.tensor(x)) <= 0).all()


@pytest.mark.parametrize('shape', [(4, 6), (6, 4), (36, 40)], ids=str)
def test_order_of_cells_and_scale_do_not_matter(shape):
    x, target = map(torch.tensor, example(*shape))
    order = torch.randperm(shape[0], generator=torch.Generator().manual_seed(0))
    # another order is another start of the iteration
    for other in (x[:, order], 1e3 * x, 1e-3 * x, torch.cat([x, torch.zeros_like(x)], 1)):
        torch.testing.assert_close(principal_vectors(other), principal_vectors(x), rtol=0, atol=1e-8)
        torch.testing.assert_close(aligned_vectors(other, target, candidates=1),
                                   aligned_vectors(x, target, candidates=1), rtol=0, atol=1e-8)
        torch.testing.assert_close(mean_vectors(other), mean_vectors(x))


def test_rotated_channels_are_rotated_vectors():
    x, target = map(torch.tensor, example(4, 6))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double())[0]
    torch.testing.assert_close(principal_vectors(x @ turn), principal_vectors(x) @ turn)
    torch.testing.assert_close(aligned_vectors(x @ turn, target @ turn), aligned_vectors(x, target) @ turn)


def test_an_equal_student_is_aligned_to_its_teacher():
    x, _ = map(torch.tensor, example(5, 6))
    torch.testing.assert_close(aligned_vectors(x, principal_vectors(x)), principal_vectors(x))


def test_a_later_vector_is_taken_where_it_fits():
    x, _ = example(5, 6, nodes=1)
    later = torch.tensor(-svd_of(x[0])[2:3])
    torch.testing.assert_close(aligned_vectors(torch.tensor(x), later), later)
    assert (aligned_vectors(torch.tensor(x), later, candidates=2) * later).sum() < 1e-6


# degenerate and extreme

DEGENERATE = {
    'zero': torch.zeros(5, 4), 'constant': torch.full((5, 4), 2.), 'one cell': torch.eye(5, 4)[:1].expand(5, 4),
    'repeated singular values': torch.eye(5, 4), 'all but one zero': torch.eye(5, 4) * torch.tensor([1., 0, 0, 0]),
    'tiny': torch.full((5, 4), 1e-20), 'huge': torch.eye(5, 4) * 1e12, 'almost repeated': torch.eye(5, 4)
    * torch.tensor([1., 1 + 1e-7, 1, 1]),
}


@pytest.mark.parametrize('wide', [False, True])
@pytest.mark.parametrize('name', DEGENERATE)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_degenerate_nodes(name, dtype, wide):
    x = DEGENERATE[name].to(dtype)
    x = (x.mT if wide else x).unsqueeze(0).clone().requires_grad_()
    target = torch.randn(1, x.shape[2], generator=torch.Generator().manual_seed(0)).to(dtype)
    length = 0 if name in ('zero', 'tiny') else 1
    for vector in (aligned_vectors(x, target), mean_vectors(x)):
        gradient, = torch.autograd.grad((vector * torch.randn_like(vector)).sum(), x)
        assert vector.norm().item() == pytest.approx(length, abs=1e-5) and gradient.isfinite().all()
        assert gradient.abs().max() * x.detach().abs().max() < 1e5
        assert length or not gradient.any()
    assert principal_vectors(x).norm().item() == pytest.approx(length, abs=1e-5)


@pytest.mark.parametrize('shape', [(5, 4), (4, 5), (40, 36)], ids=str)
@pytest.mark.parametrize('nodes', [0, 1, 2])
def test_few_nodes(nodes, shape):
    x, target = (torch.tensor(a[:nodes]) for a in example(*shape))
    x.requires_grad_()
    assert principal_vectors(x).shape == (nodes, shape[1])
    for vector in (aligned_vectors(x, target), mean_vectors(x)):
        assert vector.shape == (nodes, shape[1]) and vector.requires_grad
        gradient, = torch.autograd.grad(vector.sum(), x)
        assert gradient.shape == x.shape and gradient.isfinite().all()


@pytest.mark.parametrize('shape', [(5, 4), (4, 5), (40, 36)], ids=str)
def test_what_is_not_finite_gives_nan_and_no_exception(shape):
    x, target = map(torch.tensor, example(*shape))
    x[1, 2, 0] = torch.inf
    x.requires_grad_()
    for vector in (aligned_vectors(x, target), principal_vectors(x)):
        assert vector[1].isnan().all() and vector[0].isfinite().all()
    aligned_vectors(x, target).sum().backward()
    assert x.grad[1].isnan().any() and x.grad[0].isfinite().all()


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 1e-5), (torch.float16, 1e-5), (torch.float32, 1e-5)])
def test_types(dtype, tolerance):
    x, target = (torch.tensor(a).to(dtype) for a in example(5, 6))
    x.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        got = aligned_vectors(x, target), principal_vectors(x), mean_vectors(x)
    want = (f(x.detach().double(), *more) for f, *more in (
        (aligned_vectors, target.double()), (principal_vectors,), (mean_vectors,)))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance)
    assert not got[1].requires_grad
    gradient, = torch.autograd.grad(got[0].sum(), x)
    assert gradient.dtype == dtype


def test_layouts():
    x, target = map(torch.tensor, example(5, 6))
    for laid in (x.mT.contiguous().mT, torch.stack([x, x], -1)[..., 0], x.transpose(0, 1).contiguous().transpose(0, 1)):
        assert not laid.is_contiguous()
        leaf = laid.detach().requires_grad_()
        got = aligned_vectors(leaf, target)
        torch.testing.assert_close(got, aligned_vectors(x, target))
        got.sum().backward()
        other = x.clone().requires_grad_()
        aligned_vectors(other, target).sum().backward()
        torch.testing.assert_close(leaf.grad, other.grad)


def test_the_teacher_has_no_gradient():
    x, target = map(torch.tensor, example(5, 6))
    x.requires_grad_(), target.requires_grad_()
    aligned_vectors(x, target).sum().backward()
    assert target.grad is None and not principal_vectors(x).requires_grad


def test_no_random_number_is_drawn():
    x, target = map(torch.tensor, example(40, 36))
    state = torch.get_rng_state()
    aligned_vectors(x, target)
    assert torch.equal(torch.get_rng_state(), state)
