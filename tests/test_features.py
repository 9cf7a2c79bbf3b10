"""Reading a neck, and telling an image from its padding."""
from fractions import Fraction

import pytest
import torch
from mmdet.structures import DetDataSample
from torch import nn

from mmgkd.features import capture_output, feature_maps, valid_cells


def samples(batch, *images):
    return [DetDataSample(metainfo=dict(img_shape=shape, batch_input_shape=batch)) for shape in images]


def cells_by_hand(sample, height, width):
    """A cell counts where its first row and column lie within the image."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    for i in range(height):
        for j in range(width):
            top, left = (Fraction(k * full, cells) for k, full, cells in zip(
                (i, j), sample.batch_input_shape, (height, width), strict=True))
            mask[i, j] = top < sample.img_shape[0] and left < sample.img_shape[1]
    return mask


@pytest.mark.parametrize('batch', [(64, 96), (320, 544), (400, 667)])
def test_valid_cells_are_those_that_touch_the_image(batch):
    generator = torch.Generator().manual_seed(0)
    sizes = [tuple(int(torch.randint(1, n + 1, (), generator=generator)) for n in batch) for _ in range(3)]
    images = samples(batch, *sizes, (1, 1), (batch[0], batch[1] - 1))
    feats = [torch.zeros(len(images), 2, -(-batch[0] // s), -(-batch[1] // s)) for s in (8, 16, 32, 64)]
    for feat, mask in zip(feats, valid_cells(feats, images), strict=True):
        assert torch.equal(mask, torch.stack([cells_by_hand(s, *feat.shape[2:]) for s in images]))


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
