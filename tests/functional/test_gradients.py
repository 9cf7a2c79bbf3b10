"""Who receives a gradient, whether it is right, and what is kept in memory for it."""
import oracle
import pytest
import torch

from mmgkd.functional import channel_graph_terms, moments, uniform_weight

ATTENTION = [None, ('spatial', 'channel', 'relational')]
TERMS = [dict(terms=('vertex',)), dict(terms=('edge',))] + [
    dict(terms=('spectral',), spectral=s, affinity=a)
    for s in ('rayleigh', 'subspace') for a in ('relu', 'abs', 'shift')]
IDS = ['-'.join(['+'.join(t['terms']), *list(t.values())[1:]]) for t in TERMS]


def maps(**kwargs):
    return map(torch.tensor, oracle.example(**kwargs))


def plain(student, teacher, valid, attention, centered, terms, spectral='rayleigh', affinity='relu', r=2):
    """One term, written with ordinary operations: autograd differentiates everything, eigh included."""
    attention, losses = attention or (), []
    for s, t, v in zip(student.flatten(2), teacher.flatten(2), valid.flatten(1), strict=True):
        s, t = s[:, v], t[:, v]
        omega = torch.full_like(t[0], 1 / t.shape[1])
        if 'spatial' in attention:
            omega = omega / 2 + (t.abs().mean(0) / t.abs().mean() / 0.5).softmax(0) / 2
        w = torch.ones_like(t[:, 0])
        if 'channel' in attention:
            w = len(t) * (t.abs().mean(1) / t.abs().mean() / 0.5).softmax(0)
        if centered:
            s, t = s - (s @ omega)[:, None], t - (t @ omega)[:, None]
        s, t = s / (s.square() @ omega).sqrt()[:, None], t / (t.square() @ omega).sqrt()[:, None]
        a_s, a_t = s * omega @ s.mT, t * omega @ t.mT
        if terms == ('vertex',):
            losses.append((w * (1 - (s * t) @ omega)).mean())
            continue
        off = 1 - torch.eye(len(t), dtype=t.dtype)
        if terms == ('edge',):
            m = off * w[:, None] * w * (a_t.abs() if 'relational' in attention else 1)
            losses.append((m * (a_s - a_t) ** 2).sum() / m.sum())
            continue
        lap = []
        for a in (a_s, a_t):
            p = off * {'relu': a.relu(), 'abs': a.abs(), 'shift': (1 + a) / 2}[affinity]
            d = p.sum(1) ** -0.5
            lap.append(torch.eye(len(t), dtype=t.dtype) - d[:, None] * p * d)
        (_, u_s), (values, u_t) = map(torch.linalg.eigh, lap)
        u_s, u_t = u_s[:, 1:r + 1], u_t[:, 1:r + 1]
        residual = u_t.mT @ lap[0] @ u_t - values[1:r + 1].diag()
        losses.append(residual.square().sum() / r if spectral == 'rayleigh'
                      else 1 - (u_t.mT @ u_s).square().sum() / r)
    return torch.stack(losses).mean()


@pytest.mark.parametrize('options', TERMS, ids=IDS)
@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('centered', [True, False])
@pytest.mark.parametrize('attention', ATTENTION)
def test_gradient_is_that_of_plain_autograd(attention, centered, padded, options):
    student, teacher = maps()
    valid = torch.tensor(oracle.example_valid()) if padded else torch.ones(2, 4, 6, dtype=torch.bool)
    student.requires_grad_()
    want = plain(student, teacher, valid, attention, centered, **options)
    expected, = torch.autograd.grad(want, student)
    term, = options['terms']
    got = channel_graph_terms(student, teacher, valid if padded else None, attention=attention,
                              centered=centered, num_eigenvectors=2, **options)[term]
    gradient, = torch.autograd.grad(got, student)
    assert expected.norm() > 1e-3
    torch.testing.assert_close(got, want, rtol=1e-9, atol=0)
    # the gaps of this example are above 0.02, and the projector rounds them by (1e-4 / gap)^2
    assert (gradient - expected).norm() < 1e-4 * expected.norm()
    if options.get('spectral') != 'subspace':
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('options', TERMS, ids=IDS)
@pytest.mark.parametrize('centered', [True, False])
def test_gradcheck(centered, options):
    student, teacher = maps(shape=(1, 5, 3, 4), seed=4)
    term, = options['terms']
    torch.autograd.gradcheck(
        lambda s: channel_graph_terms(s, teacher, centered=centered, num_eigenvectors=2, **options)[term],
        student.requires_grad_())


@pytest.mark.parametrize('centered', [True, False])
@pytest.mark.parametrize('gram', [True, False])
def test_gradcheck_of_the_moments(gram, centered):
    student, teacher = maps(shape=(2, 3, 2, 3))
    weight = uniform_weight(teacher, torch.tensor(oracle.example_valid((2, 3, 2, 3))))
    torch.autograd.gradcheck(lambda s: moments(s, teacher, weight, centered=centered, gram=gram)[:3:2],
                             student.requires_grad_())


@pytest.mark.parametrize('options', TERMS, ids=IDS)
def test_gradient_reaches_the_student_only(options):
    student, teacher = (x.requires_grad_() for x in maps())
    losses = channel_graph_terms(student, teacher, attention=('spatial', 'channel', 'relational'),
                                 num_eigenvectors=2, **options)
    sum(losses.values()).backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 1e-4


def test_no_gradient_is_asked_of_a_student_without():
    student, teacher = (x.requires_grad_(i == 1) for i, x in enumerate(maps()))
    losses = channel_graph_terms(student, teacher, num_eigenvectors=2)
    assert not any(loss.requires_grad for loss in losses.values())


def test_teacher_as_the_student_too():
    _, teacher = maps()
    teacher.requires_grad_()
    loss = channel_graph_terms(0.5 * teacher.flip(3), teacher, num_eigenvectors=2)['vertex']
    loss.backward()
    other = teacher.detach().clone().requires_grad_()
    channel_graph_terms(0.5 * other.flip(3), teacher.detach(), num_eigenvectors=2)['vertex'].backward()
    torch.testing.assert_close(teacher.grad, other.grad)


def test_neither_map_is_changed():
    student, teacher = maps()
    before = student.clone(), teacher.clone()
    x = student.requires_grad_()
    sum(channel_graph_terms(x, teacher, num_eigenvectors=2).values()).backward()
    torch.testing.assert_close((x.detach(), teacher), before, rtol=0, atol=0)


@pytest.mark.parametrize('spectral', ['rayleigh', 'subspace'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'strided'])
def test_nothing_as_large_as_a_map_is_kept_but_the_maps(layout, dtype, spectral):
    n, c, h, w = shape = (2, 6, 40, 50)
    student, teacher = (x.to(dtype) for x in maps(shape=shape))
    if layout == 'channels_last':
        student, teacher = (x.contiguous(memory_format=torch.channels_last) for x in (student, teacher))
    if layout == 'strided':
        student, teacher = (torch.stack([x, x], -1)[..., 0] for x in (student, teacher))
    student.requires_grad_()
    kept = {}

    def keep(x):
        kept[x.data_ptr(), x.dtype] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = channel_graph_terms(student, teacher, attention=('spatial', 'channel', 'relational'),
                                     spectral=spectral, num_eigenvectors=2)
    inputs = {(x.data_ptr(), x.dtype) for x in (student, teacher)}
    own = sum(x.numel() * x.element_size() for key, x in kept.items() if key not in inputs)
    cell_weight, graph = n * h * w * 4, n * c * c * 4
    assert own <= cell_weight + 60 * graph
    assert own < student.numel() * 4, 'the bound must be tighter than one map'
    assert len(inputs & kept.keys()) == 2, 'the hook saw nothing'
    sum(losses.values()).backward()
    assert student.grad.isfinite().all()
