"""The spectral term: nothing in it may depend on the arbitrary choices of an eigen-solver."""
import pytest
import torch

from mmgkd.functional import (
    affinity,
    channel_graph,
    channel_graph_terms,
    nontrivial_laplacian,
    normalized_laplacian,
    rayleigh_loss,
    smallest_eigenpairs,
    spectral_projector,
    subspace_loss,
)

BLOCK = [0.3, 0.3, 0.3, 0.8, 1.1, 1.4]  # eigenvalues: three that repeat, between clear gaps
VARIANTS = ['plain', 'rotated']


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=generator(seed)).double())[0]


def symmetric(n, seed=0):
    x = torch.randn(n, n, generator=generator(seed)).double()
    return x + x.mT


def with_spectrum(values, variant):
    """A symmetric matrix; 'plain' is diagonal, so that eigenvalues repeat to the last bit."""
    q = rotation(len(values)) if variant == 'rotated' else torch.eye(len(values)).double()
    m = q @ torch.tensor(values).double().diag() @ q.mT
    return ((m + m.mT) / 2)[None]


def weights(seed, n=6):
    x = torch.rand(1, n, n, generator=generator(seed)).double()
    return affinity(x + x.mT)


def laplacian(seed, n=6):
    return nontrivial_laplacian(weights(seed, n))


def projector_slope(matrix, r, direction, probe, step=1e-5):
    """The derivative of <probe, projector> along a direction, by finite differences of plain eigh."""
    ends = []
    for sign in (1, -1):
        kept = torch.linalg.eigh(matrix + sign * step * direction)[1][..., :r]
        ends.append((probe * (kept @ kept.mT)).sum())
    return (ends[0] - ends[1]) / (2 * step)


# the eigenvectors' arbitrary choices

@pytest.mark.parametrize('signs', [[-1, 1, 1], [1, -1, 1], [-1, -1, -1]])
def test_sign_flips_change_nothing(signs):
    values, vectors = smallest_eigenpairs(laplacian(0), 3)
    flipped = vectors * torch.tensor(signs)
    student = laplacian(1)
    torch.testing.assert_close(rayleigh_loss(student, values, flipped),
                               rayleigh_loss(student, values, vectors))
    torch.testing.assert_close(subspace_loss(student, flipped), subspace_loss(student, vectors))


@pytest.mark.parametrize('variant', VARIANTS)
def test_rotation_inside_a_repeated_eigenvalue_changes_nothing(variant):
    values, vectors = smallest_eigenpairs(with_spectrum(BLOCK, variant), 4)
    turned = torch.cat([vectors[..., :3] @ rotation(3), vectors[..., 3:]], -1)
    student = laplacian(1)
    want = rayleigh_loss(student, values, vectors)
    assert want > 0.01
    torch.testing.assert_close(rayleigh_loss(student, values, turned), want)
    torch.testing.assert_close(subspace_loss(student, turned), subspace_loss(student, vectors))
    other = vectors @ rotation(4)  # mixes 0.3 with 0.8: another embedding, the same subspace
    assert (rayleigh_loss(student, values, other) - want).abs() > 1e-3
    torch.testing.assert_close(subspace_loss(student, other), subspace_loss(student, vectors))


def equicorrelated():
    """A teacher (1, 5, 4, 4) of which any two channels correlate alike: one eigenvalue, four times."""
    x = torch.cat([torch.ones(16, 1), torch.randn(16, 6, generator=generator())], 1)
    rows = torch.linalg.qr(x.double())[0]
    return (rows[:, 1:6] + 0.7 * rows[:, 6:]).mT.reshape(1, 5, 4, 4)


@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
def test_the_whole_loss_under_another_eigen_solver(spectral, monkeypatch):
    teacher = equicorrelated()
    student = teacher + 0.1 * torch.randn(1, 5, 4, 4, generator=generator(1)).double()
    options = dict(attention=None, spectral=spectral, num_eigenvectors=4)
    want = channel_graph_terms(student, teacher, **options)['spectral']

    def turned(lap, r):
        values, vectors = smallest_eigenpairs(lap, r)
        assert (values - values.mean()).abs().max() < 1e-12
        return values, vectors @ rotation(r)

    monkeypatch.setattr(channel_graph, 'smallest_eigenpairs', turned)
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]):
        got = channel_graph_terms(student[:, order], teacher[:, order], **options)['spectral']
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
def test_order_of_the_channels_where_the_graph_falls_apart(spectral):
    """Two groups of channels against each other: relu leaves two components, and eigenvalue zero twice."""
    rng = generator()
    sign = torch.tensor([1., 1, 1, 1, -1, -1, -1, -1]).view(1, 8, 1, 1)
    shared, *noise = (torch.randn(1, c, 6, 8, generator=rng).double() for c in (1, 8, 8))
    teacher = 2 * sign * shared + noise[0]
    student = teacher + noise[1]
    losses = []
    for seed in range(6):
        order = torch.randperm(8, generator=generator(seed))
        losses.append(channel_graph_terms(student[:, order], teacher[:, order], attention=None,
                                          spectral=spectral, num_eigenvectors=3)['spectral'])
    torch.testing.assert_close(torch.stack(losses), losses[0].expand(6), rtol=1e-6, atol=1e-9)


# what is embedded

def trivial(weights):
    vector = weights.sum(-1).sqrt()
    return (vector / vector.norm(dim=-1, keepdim=True)).unsqueeze(-1)  # (N, V, 1)


def test_the_trivial_eigenvector_is_left_out():
    lap, vector = normalized_laplacian(weights(0)), trivial(weights(0))
    assert (lap @ vector).abs().max() < 1e-12
    values, vectors = smallest_eigenpairs(nontrivial_laplacian(weights(0)), 5)
    assert values.min() > 0.1 and (vectors.mT @ vector).abs().max() < 1e-12
    torch.testing.assert_close(lap @ vectors, vectors * values[:, None])
    torch.testing.assert_close(spectral_projector(nontrivial_laplacian(weights(0)), 5),
                               torch.eye(6).double() - vector @ vector.mT)


def test_two_components_are_told_apart_by_the_first_eigenvector():
    p = torch.block_diag(weights(0, 3)[0], weights(1, 4)[0])[None]
    values, vectors = smallest_eigenpairs(nontrivial_laplacian(p), 2)
    assert values[0, 0].abs() < 1e-12 and values[0, 1] > 0.1
    assert (vectors.mT @ trivial(p))[0, 0].abs() < 1e-12
    share = vectors[0, :, 0] / p.sum(-1)[0].sqrt()  # constant on a component, up to the degrees
    torch.testing.assert_close(share, torch.cat([share[:1].expand(3), share[-1:].expand(4)]))
    assert share[0] * share[-1] < 0


def test_vertices_outside_are_not_embedded():
    inside = torch.tensor([[True, True, True, True, False, False]])
    p = weights(0) * (inside.unsqueeze(-1) & inside.unsqueeze(-2))
    want_values, want = smallest_eigenpairs(nontrivial_laplacian(p[:, :4, :4]), 3)
    values, vectors = smallest_eigenpairs(nontrivial_laplacian(p, inside), 5)
    torch.testing.assert_close(values, torch.cat([want_values, torch.zeros(1, 2)], 1))
    torch.testing.assert_close(vectors[:, :4, :3] @ vectors[:, :4, :3].mT, want @ want.mT)
    assert (vectors[:, 4:].abs() < 1e-12).all() and (vectors[..., 3:] == 0).all()


def test_eigenpairs_are_the_smallest_ascending_and_without_gradient():
    lap = laplacian(0).requires_grad_()
    values, vectors = smallest_eigenpairs(lap, 3)
    assert not values.requires_grad and not vectors.requires_grad
    torch.testing.assert_close(values[0], torch.linalg.eigvalsh(lap[0])[:3].detach())
    torch.testing.assert_close(lap.detach() @ vectors, vectors * values[:, None])
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(3).double()[None])


@pytest.mark.parametrize('r', [1, 3, 5])
def test_projector_is_one(r):
    lap = torch.cat([laplacian(0), laplacian(1)])
    p = spectral_projector(lap, r)
    torch.testing.assert_close(p, p.mT)
    torch.testing.assert_close(p @ p, p)
    torch.testing.assert_close(p.diagonal(dim1=-2, dim2=-1).sum(-1), torch.full((2,), float(r)).double())
    order = torch.tensor([3, 0, 5, 4, 2, 1])
    torch.testing.assert_close(spectral_projector(lap[:, order][..., order], r), p[:, order][..., order])


@pytest.mark.parametrize('vectors, want', [([0, 1], 0), ([1, 0], 0), ([0, 2], 0.5), ([2, 4], 1)])
def test_subspace_loss_measures_the_angle(vectors, want):
    student = with_spectrum([0.2, 0.5, 0.9, 1.2, 1.4], 'plain')
    got = subspace_loss(student, torch.eye(5).double()[None][..., vectors])
    assert got.item() == pytest.approx(want, abs=1e-12)


def test_rayleigh_loss_by_hand():
    vectors = torch.eye(3).double()[None][..., 1:]
    student = torch.tensor([[[9., 9, 9], [9, 1, 0.5], [9, 0.5, 2]]]).double()
    values = torch.tensor([[0.7, 1.8]]).double()
    assert rayleigh_loss(student, values, vectors).item() == pytest.approx((0.3**2 + 0.2**2 + 2 * 0.5**2) / 2)


# the projector's gradient

@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('values, r', [(BLOCK, 3), (BLOCK, 4), ([0.4, 0.4, 0.9, 0.9, 0.9, 1.3], 2),
                                       ([0.2, 0.5, 0.9, 1.2, 1.3, 1.6], 3)])
def test_projector_gradient_where_eigenvalues_repeat(values, r, variant):
    matrix, probe = with_spectrum(values, variant).requires_grad_(), symmetric(6, seed=1)
    gradient, = torch.autograd.grad((probe * spectral_projector(matrix, r)).sum(), matrix)
    torch.testing.assert_close(gradient, gradient.mT)
    for seed in range(2, 8):
        direction = symmetric(6, seed)
        want = projector_slope(matrix.detach(), r, direction, probe)
        assert (gradient * direction).sum().item() == pytest.approx(want.item(), rel=1e-5, abs=1e-5)


def test_projector_gradient_of_an_asymmetric_probe():
    matrix = with_spectrum(BLOCK, 'rotated').requires_grad_()
    probe = torch.randn(6, 6, generator=generator()).double()
    gradient, = torch.autograd.grad((probe * spectral_projector(matrix, 3)).sum(), matrix)
    torch.testing.assert_close(gradient, gradient.mT)
    want = projector_slope(matrix.detach(), 3, symmetric(6, 5), probe)
    assert (gradient * symmetric(6, 5)).sum().item() == pytest.approx(want.item(), rel=1e-5)


@pytest.mark.parametrize('r', [1, 3])
def test_gradcheck_of_the_projector_and_the_losses(r):
    def symmetrised(f):
        return lambda x: f((x + x.mT) / 2)

    x, (values, vectors) = laplacian(0).requires_grad_(), smallest_eigenpairs(laplacian(1), r)
    torch.autograd.gradcheck(symmetrised(lambda m: spectral_projector(m, r)), x)
    torch.autograd.gradcheck(symmetrised(lambda m: subspace_loss(m, vectors)), x)
    torch.autograd.gradcheck(symmetrised(lambda m: rayleigh_loss(m, values, vectors)), x)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('gap', [0, 1e-12, 1e-7, 1e-4, 1e-2])
@pytest.mark.parametrize('variant', VARIANTS)
def test_projector_gradient_stays_finite_without_a_gap(variant, gap, dtype):
    values = [0., gap, 0.3, 0.3 + gap, 0.3 + 2 * gap, 1.1]
    for r in (1, 2, 3, 4):
        matrix = with_spectrum(values, variant).to(dtype).requires_grad_()
        probe = symmetric(6, seed=1).to(dtype)
        gradient, = torch.autograd.grad((probe * spectral_projector(matrix, r)).sum(), matrix)
        assert gradient.isfinite().all() and gradient.norm() < 1e5


def test_a_vanished_gap_passes_no_gradient_and_a_clear_one_does():
    matrix = with_spectrum([0.3, 0.3, 0.8], 'plain').requires_grad_()
    gradient, = torch.autograd.grad((torch.ones(3, 3) * spectral_projector(matrix, 1)).sum(), matrix)
    assert gradient[0, 0, 1] == 0
    # 2 u_0 u_2' / (0.3 - 0.8), shared by the two halves of the matrix
    assert gradient[0, 0, 2].item() == pytest.approx(2 / (0.3 - 0.8) / 2, rel=1e-5)


def test_gradcheck_of_the_laplacians():
    def built(f):
        return lambda x: f(affinity(x + x.mT, 'shift'))

    inside = torch.tensor([[True, True, False, True, True, True]])
    x = weights(0).requires_grad_()
    torch.autograd.gradcheck(built(normalized_laplacian), x)
    torch.autograd.gradcheck(built(nontrivial_laplacian), x)
    torch.autograd.gradcheck(built(lambda p: nontrivial_laplacian(p, inside)), x)


@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
def test_identical_channels_have_finite_gradients(spectral):
    x = torch.randn(2, 1, 5, 5, generator=generator()).repeat(1, 6, 1, 1)
    for student, teacher in [(x, equi) for equi in (x, torch.randn(2, 6, 5, 5, generator=generator(1)))] + [
            (torch.randn(2, 6, 5, 5, generator=generator(1)), x)]:
        student = student.clone().requires_grad_()
        loss = channel_graph_terms(student, teacher, spectral=spectral, num_eigenvectors=2)['spectral']
        loss.backward()
        assert loss.isfinite() and student.grad.isfinite().all()
