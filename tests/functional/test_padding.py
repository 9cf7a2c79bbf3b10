"""A padded map with its mask is the map without padding."""
import oracle
import pytest
import torch

from mmgkd.functional import cells, channel_graph_terms

OPTIONS = [dict(attention=a, spectral=s, centered=c, num_eigenvectors=2)
           for a in (None, ('spatial', 'channel', 'relational')) for s in ('rayleigh', 'subspace')
           for c in (True, False)]
CONTENT = [0, -7.5, 1e4, 1e30, 'noise']


def pad(x, content, above=1, left=2, below=3, right=1):
    """A map (N, C, H, W) inside a larger one, and the mask of where it is."""
    n, c, h, w = x.shape
    size = n, c, above + h + below, left + w + right
    big = torch.empty(size, dtype=x.dtype)
    if content == 'noise':
        big = 100 * torch.randn(size, generator=torch.Generator().manual_seed(0)).to(x.dtype)
    else:
        big.fill_(content)
    valid = torch.zeros(n, *size[2:], dtype=torch.bool)
    big[..., above:above + h, left:left + w] = x
    valid[:, above:above + h, left:left + w] = True
    return big, valid


def run(student, teacher, valid, **options):
    student = student.clone().requires_grad_()
    losses = channel_graph_terms(student, teacher, valid, **options)
    gradients = {}
    for term, loss in losses.items():
        gradients[term], = torch.autograd.grad(loss, student, retain_graph=True)
    return {term: loss.detach() for term, loss in losses.items()}, gradients


@pytest.mark.parametrize('content', CONTENT)
@pytest.mark.parametrize('options', OPTIONS, ids=str)
@pytest.mark.parametrize('chunk', [3, 8192])
def test_padding_changes_neither_loss_nor_gradient(chunk, options, content, monkeypatch):
    monkeypatch.setattr(cells, 'run_length', lambda feat: chunk)
    student, teacher = map(torch.tensor, oracle.example())
    (big_student, valid), (big_teacher, _) = pad(student, content), pad(teacher, content)
    want, expected = run(student, teacher, None, **options)
    got, gradient = run(big_student, big_teacher, valid, **options)
    mask = valid[:, None].expand_as(big_student)
    for term in want:
        torch.testing.assert_close(got[term], want[term], rtol=1e-8, atol=1e-11)
        inside = gradient[term][mask].view_as(student)
        assert expected[term].abs().max() > 1e-5
        torch.testing.assert_close(inside, expected[term], rtol=1e-7, atol=1e-10)
        assert (gradient[term][~mask] == 0).all()


@pytest.mark.parametrize('dtype, content', [
    (torch.float32, 1e30), (torch.bfloat16, 1e30), (torch.float16, 6e4)])
def test_content_of_padding_is_irrelevant_in_low_precision(dtype, content):
    student, teacher = (torch.tensor(x).to(dtype) for x in oracle.example())
    options = OPTIONS[4]
    want, expected = run(student, teacher, None, **options)
    (big_student, valid), (big_teacher, _) = pad(student, content), pad(teacher, content)
    got, gradient = run(big_student, big_teacher, valid, **options)
    mask = valid[:, None].expand_as(big_student)
    for term in want:
        torch.testing.assert_close(got[term], want[term], rtol=1e-4, atol=1e-6)
        inside = gradient[term][mask].view_as(student)
        torch.testing.assert_close(inside, expected[term], rtol=2e-2, atol=1e-5)
        assert (gradient[term][~mask] == 0).all()


def test_each_image_has_its_own_padding():
    student, teacher = map(torch.tensor, oracle.example())
    valid = torch.tensor(oracle.example_valid())
    assert valid[0].sum() != valid[1].sum()
    alone = []
    for i in range(2):
        h, w = int(valid[i].any(1).sum()), int(valid[i].any(0).sum())
        part = slice(i, i + 1), slice(None), slice(h), slice(w)
        alone.append(run(student[part], teacher[part], None, num_eigenvectors=2)[0])
    got, _ = run(student, teacher, valid, num_eigenvectors=2)
    for term in got:
        torch.testing.assert_close(got[term], (alone[0][term] + alone[1][term]) / 2, rtol=1e-8, atol=1e-11)


def test_padding_without_a_mask_is_seen():
    student, teacher = map(torch.tensor, oracle.example())
    (big_student, valid), (big_teacher, _) = pad(student, 9.), pad(teacher, -9.)
    seen, masked = (run(big_student, big_teacher, v, num_eigenvectors=2)[0] for v in (None, valid))
    for term in seen:
        assert (seen[term] - masked[term]).abs() > 1e-3


def test_a_mask_of_nothing_but_true_is_no_mask():
    student, teacher = map(torch.tensor, oracle.example())
    want, expected = run(student, teacher, None, num_eigenvectors=2)
    got, gradient = run(student, teacher, torch.ones(2, 4, 6, dtype=torch.bool), num_eigenvectors=2)
    torch.testing.assert_close((got, gradient), (want, expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_an_image_of_nothing_but_padding_counts_as_zero(options):
    student, teacher = (torch.tensor(x).float() for x in oracle.example())
    valid = torch.ones(2, 4, 6, dtype=torch.bool)
    valid[0] = False
    got, gradient = run(student, teacher, valid, **options)
    alone, expected = run(student[1:], teacher[1:], None, **options)
    for term in got:
        torch.testing.assert_close(got[term], alone[term] / 2, rtol=1e-4, atol=1e-6)
        assert (gradient[term][0] == 0).all()
        torch.testing.assert_close(gradient[term][1:], expected[term] / 2, rtol=1e-3, atol=1e-6)
