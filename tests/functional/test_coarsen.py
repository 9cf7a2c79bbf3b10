"""Coarser maps: means over squares, padding left out, as loops make them."""
import pytest
import torch

from mmgkd.functional import coarsen, square_side
from mmgkd.functional.coarsen import coarsen_beside


def by_loops(feat, valid, side):
    n, c, h, w = feat.shape
    rows, columns = -(-h // side), -(-w // side)
    out, kept = feat.new_zeros(n, c, rows, columns), torch.zeros(n, rows, columns, dtype=torch.bool)
    for k in range(n):
        for i in range(rows):
            for j in range(columns):
                part = slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side)
                cells = feat[k][(slice(None), *part)][:, valid[k][part]]
                if cells.numel():
                    out[k, :, i, j], kept[k, i, j] = cells.mean(-1), True
    return out, kept


@pytest.mark.parametrize('height, width, side', [(8, 12, 2), (7, 11, 3), (5, 5, 8), (6, 6, 1)])
def test_means_over_squares(height, width, side):
    feat = torch.randn(2, 3, height, width, dtype=torch.float64)
    valid = torch.rand(2, height, width) < .6
    valid[1, :, width // 2:] = False
    expected, kept = by_loops(feat, valid, side)
    found, mask = coarsen(feat, valid, side=side)
    torch.testing.assert_close(found * mask.unsqueeze(1), expected)
    assert torch.equal(mask, kept)
    whole, none = coarsen(feat, side=side)
    torch.testing.assert_close(whole, by_loops(feat, torch.ones_like(valid), side)[0])
    assert none is None


def test_padding_is_in_no_mean():
    feat, valid = torch.randn(1, 2, 6, 6), torch.ones(1, 6, 6, dtype=torch.bool)
    valid[:, :, 3:] = False
    other = feat.clone()
    other[..., 3:] = 1e4
    for one, two in zip(coarsen(feat, valid, side=2), coarsen(other, valid, side=2), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize('side', [2, 3, 6, 41, 47])
def test_each_cell_gets_the_gradient_of_its_own_square(side):
    feat = torch.randn(1, 1, 2 * side + 1, 3 * side, requires_grad=True)
    found, _ = coarsen(feat, side=side)
    weight = torch.arange(9.).view(1, 1, 3, 3)
    (found * weight).sum().backward()
    index = torch.arange(3 * side) // side
    count = torch.tensor([side * side, side * side, side])[index[:2 * side + 1]]
    expected = weight[0, 0][index[:2 * side + 1]][:, index] / count.unsqueeze(-1)
    torch.testing.assert_close(feat.grad[0, 0], expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    """Sums of 4 x 4 values of which each is large leave the range of float16, and the precision of both."""
    feat = (3e4 + torch.rand(1, 2, 8, 8) * 1e3).to(dtype).requires_grad_()
    found, _ = coarsen(feat, side=4)
    expected, _ = by_loops(feat.detach().double(), torch.ones(1, 8, 8, dtype=torch.bool), 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)
    found.sum().backward()
    assert feat.grad.dtype == dtype and torch.equal(feat.grad, torch.full_like(feat, 1 / 16))


def test_gradients():
    feat = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    valid = torch.rand(1, 5, 4) < .7
    assert torch.autograd.gradcheck(lambda x: coarsen(x, valid, side=2)[0], feat)
    assert torch.autograd.gradcheck(lambda x: coarsen(x, side=3)[0], feat)


@pytest.mark.parametrize('height, width', [(8, 12), (7, 11)])
@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('kind', ['contiguous', 'channels_last', 'expanded', 'none'])
def test_a_map_read_beside_its_means_gets_both_gradients(height, width, padded, kind):
    feat = torch.randn(2, 3, height, width, dtype=torch.float64, requires_grad=True)
    valid = torch.rand(2, height, width) < .6 if padded else None
    given = dict(
        contiguous=torch.rand(2, 3, height, width), channels_last=torch.rand(2, height, width, 3).movedim(-1, 1),
        expanded=torch.rand(3, 1, 1).expand(2, 3, height, width), none=torch.zeros(2, 3, height, width))[kind].double()
    same, means, mask = coarsen_beside(feat, valid, side=2)
    assert torch.equal(same, feat)
    apart, mask_apart = coarsen(feat, valid, side=2)
    assert torch.equal(means, apart) and (mask is None or torch.equal(mask, mask_apart))
    of_means = torch.rand_like(means)
    expected = given + torch.autograd.grad(apart, feat, of_means)[0]
    found = torch.autograd.grad(means, feat, of_means, retain_graph=True) if kind == 'none' else \
        torch.autograd.grad((same, means), feat, (given.clone(memory_format=torch.preserve_format), of_means))
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize('padded', [False, True])
def test_both_gradients_are_one_tensor(padded):
    """Where a map consists of whole squares."""
    feat = torch.randn(1, 3, 8, 12, requires_grad=True)
    valid = torch.rand(1, 8, 12) < .6 if padded else None
    given = torch.rand(1, 3, 8, 12)
    same, means, _ = coarsen_beside(feat, valid, side=4)
    found, = torch.autograd.grad((same, means), feat, (given, torch.ones_like(means)))
    assert found.data_ptr() == given.data_ptr()


@pytest.mark.parametrize('height, width', [(1, 1), (5, 200), (128, 128), (200, 334), (100, 167), (50, 84)])
@pytest.mark.parametrize('most', [1, 100, 2048])
def test_the_least_side_that_leaves_few_enough(height, width, most):
    side = square_side(height, width, most)
    assert side in {2 ** k for k in range(10)}
    assert -(-height // side) * -(-width // side) <= most
    assert side == 1 or -(-height // (side // 2)) * -(-width // (side // 2)) > most


def test_strides_of_a_large_image_end_on_one_grid():
    """800 x 1333 pixels at strides 4 to 32."""
    assert [square_side(*shape, 2048) for shape in ((200, 334), (100, 167), (50, 84), (25, 42))] == [8, 4, 2, 1]
