"""Types, autocast and memory layouts; accuracy in float32."""
import oracle
import pytest
import torch

from mmgkd.functional import cells, channel_graph_terms, moments, spatial_attention

ATTENTION = [None, ('spatial', 'channel', 'relational')]
SPECTRAL = ['rayleigh', 'subspace']


def maps(dtype=torch.float32, **kwargs):
    return [torch.tensor(x).to(dtype) for x in oracle.example(**kwargs)]


def run(student, teacher, *args, **options):
    """Losses, and the gradient of each."""
    leaf = student if student.requires_grad else student.clone().requires_grad_()
    losses = channel_graph_terms(leaf, teacher, *args, **{'num_eigenvectors': 2, **options})
    gradients = {t: torch.autograd.grad(v, leaf, retain_graph=True)[0] for t, v in losses.items()}
    return {t: v.detach() for t, v in losses.items()}, gradients


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize('spectral', SPECTRAL)
@pytest.mark.parametrize('attention', ATTENTION)
@pytest.mark.parametrize('teacher_dtype', ['same', torch.float32])
@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_half_precision_inputs(dtype, tolerance, teacher_dtype, attention, spectral):
    student, teacher = maps(dtype)
    if teacher_dtype != 'same':
        teacher = maps(teacher_dtype)[1]
    got, gradient = run(student, teacher, attention=attention, spectral=spectral)
    want, expected = run(student.float(), teacher.float(), attention=attention, spectral=spectral)
    for term in want:
        assert got[term].dtype == torch.float32
        torch.testing.assert_close(got[term], want[term], rtol=1e-5, atol=1e-7)
        assert gradient[term].dtype == dtype
        torch.testing.assert_close(gradient[term].float(), expected[term], rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_types_of_the_results(dtype):
    got, gradient = run(*maps(dtype))
    assert {v.dtype for v in [*got.values(), *gradient.values()]} == {dtype}


@pytest.mark.parametrize('spectral', SPECTRAL)
@pytest.mark.parametrize('attention', ATTENTION)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype, attention, spectral):
    # sizes at which a product in bfloat16 would show
    student, teacher = maps(dtype, shape=(2, 5, 16, 24))
    want, expected = run(student, teacher, attention=attention, spectral=spectral)
    leaf = student.clone().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert (torch.ones(1, 1) @ torch.ones(1, 1)).dtype == torch.bfloat16, 'autocast is not at work'
        losses = channel_graph_terms(leaf, teacher, attention=attention, spectral=spectral,
                                     num_eigenvectors=2)
    for term, loss in losses.items():
        torch.testing.assert_close(loss.detach(), want[term], rtol=1e-6, atol=1e-8)
        gradient, = torch.autograd.grad(loss, leaf, retain_graph=True)
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, expected[term], rtol=1e-5, atol=1e-8)


def test_moments_and_attention_by_themselves_under_autocast():
    student, teacher = maps(shape=(2, 5, 16, 24))
    weight = spatial_attention(teacher)
    want = moments(student, teacher, weight)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        torch.testing.assert_close(spatial_attention(teacher), weight, rtol=1e-6, atol=0)
        got = moments(student, teacher, weight)
    torch.testing.assert_close(tuple(got), tuple(want), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize('spectral', SPECTRAL)
@pytest.mark.parametrize('attention', ATTENTION)
@pytest.mark.parametrize('offset', [0, 1e3])
@pytest.mark.parametrize('shape, seed', [((1, 5, 20, 30), 1), ((1, 8, 40, 60), 7)])
def test_float32_is_accurate_where_the_mean_dwarfs_the_deviation(shape, seed, offset, attention, spectral):
    """On graphs with a clear gap behind the embedding, by whose inverse any rounding is multiplied."""
    student, teacher = (x + offset for x in maps(shape=shape, seed=seed))  # rounded to float32 here
    got, gradient = run(student, teacher, attention=attention, spectral=spectral)
    if shape[1] == 5:  # the loops take their time
        want = oracle.terms(student.numpy(), teacher.numpy(), attention=attention, spectral=spectral)
    exact, expected = run(student.double(), teacher.double(), attention=attention, spectral=spectral)
    for term in got:
        if shape[1] == 5:
            assert exact[term].item() == pytest.approx(want[term], rel=1e-6)
        assert got[term].item() == pytest.approx(exact[term].item(), rel=1e-3 if offset else 1e-4), term
        assert relative(gradient[term].double(), expected[term]) < (2e-3 if offset else 2e-4), term


LAYOUTS = {
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'channels outermost': lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    'every second cell': lambda x: torch.stack([x, 9 + x], -1).flatten(-2)[..., ::2],
    'inside a larger map': lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1), value=9)[..., 3:-1, 1:-2],
    'inside more channels': lambda x: torch.cat([x, x + 9], 1)[:, :x.shape[1]],
    'inside more channels, channels_last': lambda x: torch.cat([x, x + 9], 1).contiguous(
        memory_format=torch.channels_last)[:, :x.shape[1]],
}


@pytest.mark.parametrize('side', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('shape', [(2, 5, 4, 6), (1, 5, 4, 6)])
def test_layouts(shape, layout, side):
    student, teacher = maps(torch.float64, shape=shape)
    valid = torch.tensor(oracle.example_valid(shape))
    want, expected = run(student, teacher, valid, attention=ATTENTION[1])
    student.requires_grad_()
    laid = [LAYOUTS[layout](x) if side in (name, 'both') else x
            for name, x in (('student', student), ('teacher', teacher))]
    assert len(student) == 1 or not all(x.is_contiguous() for x in laid)  # one image may be both
    losses = channel_graph_terms(*laid, valid, attention=ATTENTION[1], num_eigenvectors=2)
    for term, loss in losses.items():
        torch.testing.assert_close(loss.detach(), want[term], rtol=1e-9, atol=1e-12)
        gradient, = torch.autograd.grad(loss, student, retain_graph=True)
        torch.testing.assert_close(gradient, expected[term], rtol=1e-8, atol=1e-11)


def test_a_map_that_is_expanded():
    _, teacher = maps(torch.float64)
    row = teacher[:1]
    want, _ = run(row.repeat(2, 1, 1, 1), teacher)
    got, _ = run(teacher, row.expand(2, -1, -1, -1))
    again, _ = run(teacher, row.repeat(2, 1, 1, 1))
    torch.testing.assert_close(got, again, rtol=1e-10, atol=0)
    leaf = row.clone().requires_grad_()
    losses = channel_graph_terms(leaf.expand(2, -1, -1, -1), teacher, num_eigenvectors=2)
    sum(losses.values()).backward()
    torch.testing.assert_close({t: v.detach() for t, v in losses.items()}, want, rtol=1e-10, atol=0)
    assert leaf.grad.shape == row.shape and leaf.grad.abs().max() > 1e-5


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_cells_of_the_usual_layouts_are_no_copy(layout):
    x = torch.randn(2, 5, 4, 6).contiguous(memory_format=layout)
    flat = next(cells.runs(x, weight=torch.ones(2, 24)))[1][0]
    assert flat.data_ptr() == x.data_ptr() and torch.equal(flat, x.reshape(2, 5, 24))
