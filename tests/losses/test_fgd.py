"""FGD: foreground, background, attention and global relation."""
import math

import numpy as np
import pytest
import torch
from maps_common import BATCH, BOXES, SHAPE, cells, gradient, kept, maps, mask, options, samples
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmgkd import FGDLoss
from mmgkd.functional import box_mask, channel_focus, fgd_terms, spatial_focus
from mmgkd.losses.fgd import GlobalContext

TERMS = ('foreground', 'background', 'attention', 'relation')
FEAT = torch.zeros(1, 3, 10, 12)  # maps of 80 x 96 pixels
CANVAS = (80, 96)


def drawn(boxes, size, canvas):
    """The mask of one image, cell by cell."""
    h, w = size
    out = np.zeros((h, w))
    for x1, y1, x2, y2 in boxes:
        left, right = math.floor(x1 * w / canvas[1]), math.ceil(x2 * w / canvas[1])
        top, bottom = math.floor(y1 * h / canvas[0]), math.ceil(y2 * h / canvas[0])
        for y in range(h):
            for x in range(w):
                if left <= x <= right and top <= y <= bottom:
                    out[y, x] = max(out[y, x], 1 / ((bottom - top + 1) * (right - left + 1)))
    return out


def softmax(values, temperature):
    e = [math.exp((v - max(values)) / temperature) for v in values]
    return [v / sum(e) for v in e]


def attentions(cell, temperature):
    """Of the cells (P, C) of an image: per cell and per channel."""
    space = softmax([sum(abs(v) for v in row) / len(row) for row in cell], temperature)
    channel = softmax([sum(abs(v) for v in column) / len(column) for column in cell.T], temperature)
    return [len(space) * v for v in space], [len(channel) * v for v in channel]


def oracle(student, teacher, foreground, valid=None, shift=None, temperature=0.5):
    totals = dict.fromkeys(TERMS, 0.)
    masks = cells(foreground.unsqueeze(1), valid)
    for i, (s, t, m) in enumerate(zip(cells(student, valid), cells(teacher, valid), masks, strict=True)):
        (space_s, channel_s), (space_t, channel_t) = (attentions(x, temperature) for x in (s, t))
        empty = sum(v == 0 for v in m[:, 0])
        for p in range(len(s)):
            for c in range(s.shape[1]):
                square = (s[p, c] - t[p, c]) ** 2
                totals['foreground'] += m[p, 0] * space_t[p] * channel_t[c] * square
                totals['background'] += (m[p, 0] == 0) / max(empty, 1) * space_t[p] * channel_t[c] * square
                totals['relation'] += (s[p, c] - t[p, c] + (0 if shift is None else shift[i, c].item())) ** 2
        totals['attention'] += sum(abs(a - b) for a, b in zip(space_s, space_t, strict=True))
        totals['attention'] += sum(abs(a - b) for a, b in zip(channel_s, channel_t, strict=True))
    return {term: total / len(student) for term, total in totals.items()}


def boxes_of(n=2):
    return [torch.tensor(b, dtype=torch.float64) for b in BOXES[:n]]


def prepared(levels=1, **kwargs):
    torch.manual_seed(0)
    loss = FGDLoss(**kwargs)
    loss.prepare([SHAPE[1:]] * levels, [SHAPE[1:]] * levels)
    return loss.double()


# ---- boxes

@pytest.mark.parametrize('boxes', [
    [], [(16, 24, 40, 48)], [(17, 25, 39, 47)], [(0, 0, 96, 80)], [(90.5, 70.5, 96, 80)], [(50, 40, 50, 40)],
    [(-20, -9, 30, 90)], [(200, 10, 300, 20)], [(0, 0, 60, 60), (30, 30, 50, 50), (40, 8, 90, 70)],
], ids=str)
def test_boxes_as_drawn_cell_by_cell(boxes):
    got = box_mask([torch.tensor(boxes).reshape(-1, 4)], FEAT, CANVAS)
    np.testing.assert_allclose(got[0].numpy(), drawn(boxes, (10, 12), CANVAS), rtol=1e-6)


def test_many_boxes_in_images_of_different_number():
    corners = torch.rand(150, 2, generator=torch.Generator().manual_seed(0)) * 70
    sizes = torch.rand(150, 2, generator=torch.Generator().manual_seed(1)) * 40
    boxes = torch.cat([corners, corners + sizes], 1)
    given = [boxes[:130], boxes[:0], boxes[130:]]
    got = box_mask(given, FEAT.expand(3, -1, -1, -1), CANVAS)
    for image, b in zip(got, given, strict=True):
        np.testing.assert_allclose(image.numpy(), drawn(b.tolist(), (10, 12), CANVAS), rtol=1e-6)


def test_boxes_lie_by_the_stride_where_it_does_not_divide_the_batch():
    """161 pixels are three cells of 64, the last of them mostly beyond the batch."""
    student, teacher = maps((1, SHAPE[1], 3, 3))
    box = torch.tensor([[65., 65, 120, 120]])
    sample = DetDataSample(metainfo=dict(img_shape=(161, 161), batch_input_shape=(161, 161)))
    sample.gt_instances = InstanceData(bboxes=box)
    foreground = torch.zeros(1, 3, 3, dtype=teacher.dtype)
    foreground[0, 1:, 1:] = 1 / 4
    want = fgd_terms(student, teacher, foreground)['foreground']
    torch.testing.assert_close(prepared(1)([student], [teacher], [sample])['foreground'][0], want)


def test_a_box_weighs_one_whatever_its_size():
    for box in ([9., 9, 23, 23], [9, 9, 71, 71], [40, 8.5, 47, 63]):
        assert box_mask([torch.tensor([box])], FEAT, CANVAS).sum().item() == pytest.approx(1)


def test_coordinates_on_the_border_of_a_cell_do_not_touch_the_next():
    """30 * (1 / 10) is above 3 in floating point; 30 / 10 is not."""
    feat = torch.zeros(1, 1, 10, 10)
    got = box_mask([torch.tensor([[30., 30, 60, 60]])], feat, (100, 100))
    assert got[0].nonzero().unique().tolist() == [3, 4, 5, 6]


def test_boxes_are_where_the_object_is_on_padded_maps():
    """The published code stretches them over the padding."""
    image, batch = (40, 48), (80, 96)
    box = torch.tensor([[17., 17, 31, 31]])  # cells 2 and 3 of stride 8
    got = box_mask([box], FEAT, batch)[0] > 0
    assert got.nonzero().tolist() == [[y, x] for y in (2, 3, 4) for x in (2, 3, 4)]
    stretched = box_mask([box], FEAT, image)[0] > 0
    assert not (got & stretched)[:4, :4].any()


def test_number_of_boxes():
    with pytest.raises(ValueError, match='boxes must be one tensor for each of the 2 images, got 1'):
        box_mask(boxes_of(1), torch.zeros(SHAPE), BATCH)


# ---- attention

@pytest.mark.parametrize('temperature', [0.1, 0.5])
@pytest.mark.parametrize('valid', [None, mask()])
def test_attentions(valid, temperature):
    _, teacher = maps()
    space, channel = (f(teacher, valid, temperature=temperature) for f in (spatial_focus, channel_focus))
    for i, cell in enumerate(cells(teacher, valid)):
        want = attentions(cell, temperature)
        kept_space = space[i] if valid is None else space[i][valid[i].flatten()]
        torch.testing.assert_close(kept_space, torch.tensor(want[0]).double())
        torch.testing.assert_close(channel[i], torch.tensor(want[1]).double())
    if valid is not None:
        assert (space[~valid.flatten(1)] == 0).all()


# ---- terms

@pytest.mark.parametrize('temperature', [0.5, 0.8])
@pytest.mark.parametrize('shift', [None, torch.linspace(-1, 1, 10).double().view(2, 5)])
@pytest.mark.parametrize('valid', [None, mask()])
def test_values(valid, shift, temperature):
    student, teacher = maps()
    foreground = box_mask(boxes_of(), teacher, BATCH)
    got = fgd_terms(student, teacher, foreground, valid, shift=shift, temperature=temperature)
    want = oracle(student, teacher, foreground, valid, shift, temperature)
    assert {term: value.item() for term, value in got.items()} == pytest.approx(want, rel=1e-10)
    assert min(want.values()) > 0


@pytest.mark.parametrize('term', TERMS)
@pytest.mark.parametrize('valid', [None, mask()])
def test_gradcheck(valid, term):
    student, teacher = maps()
    foreground = box_mask(boxes_of(), teacher, BATCH)
    shift = torch.linspace(-1, 1, 10).double().view(2, 5).requires_grad_()
    torch.autograd.gradcheck(
        lambda s, b: fgd_terms(s, teacher, foreground, valid, shift=b, terms=(term,))[term],
        (student.requires_grad_(), shift), eps=1e-7, atol=1e-4)


def test_the_background_weighs_one_and_an_image_full_of_boxes_has_none():
    student, teacher = torch.ones(2, 3, 4, 6), torch.zeros(2, 3, 4, 6)
    foreground = torch.zeros(2, 4, 6)
    assert fgd_terms(student, teacher, foreground)['background'].item() == pytest.approx(3)  # channels
    assert fgd_terms(student, teacher, foreground + 1)['background'] == 0


def test_zero_at_equality_until_the_context_is_learned():
    loss, (student, _) = prepared(), maps()
    first = loss([student], [student], samples())
    assert all(value == 0 for values in first.values() for value in values)
    for block in loss.contexts[0].values():
        torch.nn.init.normal_(block.transform[-1].weight)
    again = loss([student], [student], samples())
    assert again['relation'][0] > 0.1 and again['foreground'][0] == again['attention'][0] == 0


def test_terms_that_weigh_nothing_are_not_computed():
    loss = prepared(background_weight=0., relation_weight=0.)
    student, teacher = maps()
    assert set(loss([student], [teacher], samples())) == {'foreground', 'attention'}
    assert not list(loss.parameters())


def test_the_context_of_a_map():
    torch.manual_seed(0)
    block, (feat, _), valid = GlobalContext(5).double(), maps(), mask()
    torch.nn.init.normal_(block.transform[-1].weight)
    attend = block.attend.weight.detach().flatten().numpy(), block.attend.bias.item()
    first, norm, _, last = block.transform
    for given in (None, valid):
        for i, cell in enumerate(cells(feat, given)):
            share = softmax([float(attend[0] @ row) + attend[1] for row in cell], 1.)
            context = sum(p * row for p, row in zip(share, cell, strict=True))
            hidden = first.weight.detach().numpy() @ context + first.bias.detach().numpy()
            hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + norm.eps)
            want = last.weight.detach().numpy() @ np.maximum(hidden, 0)
            np.testing.assert_allclose(block(feat, given)[i].detach().numpy(), want, rtol=1e-8, atol=1e-10)


def test_both_blocks_learn_and_the_teacher_does_not():
    loss, (student, teacher) = prepared(), maps()
    for block in loss.contexts[0].values():
        torch.nn.init.normal_(block.transform[-1].weight)
    values = loss([student.requires_grad_()], [teacher.requires_grad_()], samples())
    sum(v for value in values.values() for v in value).backward()
    assert teacher.grad is None and student.grad.abs().max() > 1e-4
    for name, p in loss.named_parameters():  # the softmax does not see the bias
        assert p.grad.abs().max() > 1e-6 or name.endswith('attend.bias'), name


def test_initialisation():
    torch.manual_seed(0)
    block = GlobalContext(512)
    assert block.attend.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.1)
    assert not block.attend.bias.any() and not block.transform[-1].weight.any() and not block.transform[-1].bias.any()
    assert block.transform[0].weight.shape == (256, 512) and block.transform[0].weight.any()


def test_no_map_is_kept_but_for_the_attentions():
    student, teacher = maps((2, 64, 20, 30), dtype=torch.bfloat16)
    foreground = box_mask(boxes_of(), teacher, (160, 240))
    _, own = kept(lambda: fgd_terms(student.requires_grad_(), teacher, foreground), student, teacher)
    assert own < 12 * 2 * 20 * 30 * 4 < student.numel() * 2


# ---- the shell

@pytest.mark.parametrize('wrap', [torch.tensor, HorizontalBoxes])
def test_the_shell(wrap):
    assert options(FGDLoss) == options(fgd_terms, beside=('terms', 'shift'))
    loss, (student, teacher) = prepared(2, temperature=0.8), maps()
    assert loss.weights == dict(foreground=5e-5, background=2.5e-5, attention=5e-5, relation=5e-7) and loss.same_shape
    got = loss([student] * 2, [teacher] * 2, samples(wrap=wrap))
    want = fgd_terms(student, teacher, box_mask(boxes_of(), teacher, BATCH), mask(), temperature=0.8)
    assert set(got) == set(want)
    for term, values in got.items():
        torch.testing.assert_close(values, [want[term]] * 2)


def test_images_without_boxes():
    loss, (student, teacher) = prepared(), maps()
    got = loss([student.requires_grad_()], [teacher], samples(boxes=[(), ()]))
    assert got['foreground'][0] == 0 and got['background'][0] > 0
    assert (gradient(got['foreground'][0], student)[0] == 0).all()


@pytest.mark.parametrize('given', [None, 'no boxes', 'no shape'])
def test_samples_without_boxes(given):
    loss, (student, teacher) = prepared(), maps()
    found = None if given is None else samples()
    for sample in found or []:
        if given == 'no boxes':
            del sample.gt_instances
        else:
            sample.set_field({}, 'batch_input_shape', field_type='metainfo')
            del sample.batch_input_shape
    with pytest.raises(ValueError, match='FGDLoss needs data samples with gt_instances and batch_input_shape'):
        loss([student], [teacher], found)


@pytest.mark.parametrize('option, message', [
    (dict(relation_weight=-1.), 'FGDLoss: weights must be at least 0'),
    ({f'{term}_weight': 0. for term in TERMS}, 'FGDLoss: weights must be at least 0'),
    (dict(temperature=-1), 'temperature must be above 0, got -1'),
])
def test_errors(option, message):
    with pytest.raises(ValueError, match=message):
        FGDLoss(**option)


def test_errors_of_the_function():
    student, teacher = maps()
    with pytest.raises(ValueError, match=r"terms must be of .* got \['border'\]"):
        fgd_terms(student, teacher, torch.zeros(2, 4, 6), terms=('border',))
    with pytest.raises(ValueError, match=r'foreground must be \(N, H, W\) = \(2, 4, 6\), got \(2, 6, 4\)'):
        fgd_terms(student, teacher, torch.zeros(2, 6, 4))
    with pytest.raises(RuntimeError, match='FGDLoss has learned parts for 0 levels and got 1'):
        FGDLoss()([student], [teacher], samples())
