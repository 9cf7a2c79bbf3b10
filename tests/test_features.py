"""Reading a neck, and telling an image from its padding."""
from fractions import Fraction

import pytest
import torch
from mmdet.structures import DetDataSample
from torch import nn

from mmgkd.features import capture_calls, capture_output, feature_maps, map_strides, valid_cells


def samples(batch, *images):
    return [DetDataSample(metainfo=dict(img_shape=shape, batch_input_shape=batch)) for shape in images]


def cells_by_hand(sample, height, width, strides):
    """A cell counts where its first row and column lie within the image."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    for i in range(height):
        for j in range(width):
            mask[i, j] = i * strides[0] < sample.img_shape[0] and j * strides[1] < sample.img_shape[1]
    return mask


@pytest.mark.parametrize('batch', [(64, 96), (320, 544), (400, 667), (161, 161), (97, 130)])
def test_valid_cells_are_those_that_touch_the_image(batch):
    generator = torch.Generator().manual_seed(0)
    sizes = [tuple(int(torch.randint(1, n + 1, (), generator=generator)) for n in batch) for _ in range(3)]
    images = samples(batch, *sizes, (1, 1), (batch[0], batch[1] - 1))
    strides = (8, 16, 32, 64, 128)
    feats = [torch.zeros(len(images), 2, -(-batch[0] // s), -(-batch[1] // s)) for s in strides]
    assert map_strides(feats, images) == [(s, s) for s in strides]
    for feat, stride, mask in zip(feats, strides, valid_cells(feats, images), strict=True):
        want = torch.stack([cells_by_hand(s, *feat.shape[2:], (stride, stride)) for s in images])
        assert want.all() if mask is None else torch.equal(mask, want)


def test_cells_of_no_power_of_two_are_shares_of_the_batch():
    """As of a backbone that rounds down, or one of patches of 14 pixels."""
    feats, batch = [torch.zeros(2, 1, 20, 20), torch.zeros(2, 1, 11, 12)], (161, 167)
    images = samples(batch, (100, 90), (161, 2))
    strides = [tuple(map(Fraction, batch, feat.shape[2:])) for feat in feats]
    assert map_strides(feats, images) == [tuple(map(float, pair)) for pair in strides]
    for feat, pair, mask in zip(feats, strides, valid_cells(feats, images), strict=True):
        assert torch.equal(mask, torch.stack([cells_by_hand(s, *feat.shape[2:], pair) for s in images]))


@pytest.mark.parametrize('full, stride, cells', [(224, 4, 29), (1120, 4, 81), (1344, 32, 27)])
def test_rounding_error_adds_no_cell(full, stride, cells):
    """Where used / full * all cells is a little more than the whole number that it should be."""
    assert cells * stride / full * (full // stride) > cells
    mask, = valid_cells([torch.zeros(1, 1, 1, full // stride)], samples((1, full), (1, cells * stride)))
    assert mask.sum() == cells


def test_no_mask_without_padding():
    feats = [torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 4, 4)]
    assert valid_cells(feats, samples((64, 64), (64, 64), (64, 64))) == [None, None]
    assert valid_cells(feats, None) == [None, None]
    assert valid_cells(feats, [DetDataSample(metainfo=dict(img_shape=(4, 4)))]) == [None, None]


def test_a_level_too_coarse_for_the_padding_has_no_mask():
    feats = [torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 1, 1)]
    fine, coarse = valid_cells(feats, samples((64, 64), (40, 64)))
    assert fine.sum() == 5 * 8 and coarse is None


def test_capture_output_collects_within_the_context_only():
    layer, x = nn.Linear(2, 3), torch.ones(1, 2)
    with capture_output(layer) as outputs:
        expected = [layer(x), layer(2 * x)]
    layer(x)
    assert len(outputs) == 2 and all(a is b for a, b in zip(outputs, expected, strict=True))


def test_calls_are_kept_with_what_was_given_in_order():
    class Sum(nn.Module):
        def forward(self, x, y=1, *, z=2):
            return x + y + z
    module = Sum()
    with capture_calls({module: 'sum'}) as calls:
        module(z=5, y=4, x=3)
        module(3, 4)
        module(3, z=5)
    assert [tuple(call) for call in calls] == [('sum', (3, 4, 5), 12), ('sum', (3, 4), 9), ('sum', (3, 5), 9)]
    assert not module._forward_hooks


def test_capture_output_lets_go_after_an_error():
    layer = nn.Linear(2, 3)
    with pytest.raises(RuntimeError), capture_output(layer):
        layer(torch.ones(1, 5))
    assert not layer._forward_hooks


def test_feature_maps():
    x = torch.zeros(1, 2, 3, 3)
    assert feature_maps(x) == (x,) and feature_maps([x, x]) == (x, x)


@pytest.mark.parametrize('output', [
    None, torch.zeros(2, 3), [torch.zeros(1, 2, 3)], dict(a=torch.zeros(1, 2, 3, 3))])
def test_feature_maps_refuses_what_is_no_map(output):
    with pytest.raises(TypeError, match='a neck or backbone must return'):
        feature_maps(output)
