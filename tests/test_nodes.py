"""Nodes of graphs: channels, grid cells, images and instances, alike in student and teacher."""
import math

import pytest
import torch
from mmcv.ops import roi_align
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import BaseDataElement, InstanceData

from mmgkd.nodes import ChannelNodes, GridNodes, ImageNodes, InstanceNodes, node_source
from mmgkd.rois import box_rois, read_rois

BATCH = (64, 96)  # pixels
STRIDES = (4, 8, 16, 32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def maps(channels=3, strides=STRIDES, images=2, seed=0, dtype=torch.float32):
    g = generator(seed)
    return [torch.randn(images, channels, *(math.ceil(n / s) for n in BATCH), generator=g).to(dtype) for s in strides]


def random_boxes(count, seed=0, largest=90):
    g = generator(seed)
    corner = torch.rand(count, 2, generator=g) * 40
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=g) ** 2 * largest], 1)


def samples(*boxes, sizes=None, kind=None, labels=None):
    found = []
    for i, box in enumerate(boxes):
        sample = DetDataSample(metainfo=dict(
            img_shape=BATCH if sizes is None else sizes[i], batch_input_shape=BATCH))
        sample.gt_instances = InstanceData(
            bboxes=kind(box) if kind else box, labels=torch.arange(len(box)) + 10 * i if labels is None else labels[i])
        found.append(sample)
    return found


def plain_samples(sizes):
    return [DetDataSample(metainfo=dict(img_shape=size, batch_input_shape=BATCH)) for size in sizes]


def extractor(strides=STRIDES, channels=3, output_size=7, finest_scale=None):
    return SingleRoIExtractor(
        dict(type='RoIAlign', output_size=output_size, sampling_ratio=0), out_channels=channels,
        featmap_strides=list(strides), finest_scale=finest_scale or 14 * strides[0])


# instances

def bilinear(image, y, x):
    """The value (C,) at a point in cells of a map (C, H, W), whose cell i has its centre at i."""
    _, height, width = image.shape
    if not (-1 < y < height and -1 < x < width):
        return torch.zeros(len(image)).to(image)
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    a, b = y - top, x - left
    return ((1 - a) * ((1 - b) * image[:, top, left] + b * image[:, top, right])
            + a * ((1 - b) * image[:, down, left] + b * image[:, down, right]))


def aligned(image, box, stride, size):
    """(C, size, size), each the mean over as many points as the bin has cells, rounded up."""
    x0, y0, x1, y1 = (v / stride - 0.5 for v in box.tolist())
    bin_h, bin_w = (y1 - y0) / size, (x1 - x0) / size
    rows, columns = math.ceil(bin_h), math.ceil(bin_w)
    out = torch.zeros(len(image), size, size).to(image)
    for i in range(size):
        for j in range(size):
            points = [bilinear(image, y0 + (i + (a + .5) / rows) * bin_h, x0 + (j + (b + .5) / columns) * bin_w)
                      for a in range(rows) for b in range(columns)]
            out[:, i, j] = torch.stack(points).mean(0)
    return out


def test_a_box_is_roi_aligned_as_by_hand():
    feats = maps(dtype=torch.float64)
    boxes = [torch.tensor([[3., 5, 33, 41], [0, 0, 90, 60], [50, 20, 95.5, 64]]), torch.tensor([[8., 8, 12, 15]])]
    nodes, = InstanceNodes(output_size=3, pool=False, cells=2)(feats, feats, samples(*boxes))
    k, levels = 0, set()
    for image, of_image in enumerate(boxes):
        for box in of_image:
            side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
            level = min(max(int(math.floor(math.log2(side / 8))), 0), 3)
            levels.add(level)
            want = aligned(feats[level][image], box, STRIDES[level], 3)  # (C, 3, 3)
            for row in range(3):
                for column in range(3):
                    torch.testing.assert_close(nodes.student[0, k, 3 * row + column], want[:, row, column])
            k += 1
    assert nodes.student.shape == (1, 4, 9, 3) and len(levels) == 3


@pytest.mark.parametrize('strides', [STRIDES, (8, 16), (4,)])
def test_levels_and_features_are_those_of_mmdet(strides):
    feats, boxes = maps(strides=strides), [random_boxes(40), random_boxes(25, 1)]
    rois = box_rois(boxes)
    # those at the edge between two levels, and so little below it that they count as at it
    sides = torch.tensor([2 ** k * strides[0] * 2. * (1 - below) for below in (0, 2e-7) for k in range(-1, 5)])
    rois[:12] = torch.stack([torch.zeros(12), torch.zeros(12), torch.zeros(12), sides, sides], 1)
    own = extractor(strides, finest_scale=2 * strides[0])
    assert len(set(own.map_roi_levels(rois, len(strides)).tolist())) == min(len(strides), 4)
    got = read_rois(feats, rois, samples(*boxes), cells=2, pool=False)
    torch.testing.assert_close(got, own(feats, rois).flatten(2).mT, rtol=0, atol=0)


def test_levels_in_any_order():
    feats, boxes = maps(), [random_boxes(40), random_boxes(25, 1)]
    rois = box_rois(boxes)
    want, got = (read_rois(levels, rois, samples(*boxes), cells=2) for levels in (feats, feats[::-1]))
    assert torch.equal(got, want)


def test_cells_are_those_of_the_finest_map():
    """14 cells of stride 4 are the 56 pixels of mmdet's ``finest_scale``."""
    assert extractor().finest_scale == 56 == SingleRoIExtractor(
        dict(type='RoIAlign', output_size=7), out_channels=3, featmap_strides=[4]).finest_scale
    feats = [torch.full((1, 1, 16, 24), 0.), torch.full((1, 1, 8, 12), 1.)]
    boxes = torch.tensor([[0., 0, 111.9, 111.9], [0, 0, 112.1, 112.1], [0, 0, 112.1, 111.8]])
    nodes, = InstanceNodes()(feats, feats, samples(boxes))
    assert (nodes.student[0, :, 0] > 0).tolist() == [False, True, False]


def test_the_mean_over_a_box_and_one_graph_of_all():
    student, teacher = maps(3), maps(5, seed=1)
    boxes = [random_boxes(4), random_boxes(3, 1)]
    nodes, = InstanceNodes(cells=1)(student, teacher, samples(*boxes))
    rois = box_rois(boxes)
    for got, feats in ((nodes.student, student), (nodes.teacher, teacher)):
        want = extractor(channels=feats[0].shape[1], finest_scale=4)(feats, rois).mean((2, 3))
        torch.testing.assert_close(got, want[None])
    assert nodes.valid is None and nodes.labels.tolist() == [[0, 1, 2, 3, 10, 11, 12]]
    assert nodes.student.shape == (1, 7, 3) and nodes.teacher.shape == (1, 7, 5)


@pytest.mark.parametrize('pool', [True, False])
def test_a_graph_per_image(pool):
    student, teacher = maps(3), maps(5, seed=1)
    boxes = samples(random_boxes(4), random_boxes(2))
    of_all, = InstanceNodes(pool=pool)(student, teacher, boxes)
    nodes, = InstanceNodes(pool=pool, per_image=True)(student, teacher, boxes)
    assert nodes.valid.tolist() == [[True] * 4, [True, True, False, False]]
    assert nodes.labels.tolist() == [[0, 1, 2, 3], [10, 11, 0, 0]]
    for got, want in ((nodes.student, of_all.student), (nodes.teacher, of_all.teacher)):
        assert torch.equal(got[nodes.valid], want[0]) and not got[~nodes.valid].any()


def test_every_level_reads_all_boxes():
    student, teacher, given = maps(3), maps(5, seed=1), [random_boxes(4), random_boxes(2)]
    levels = InstanceNodes(every_level=True)(student, teacher, samples(*given))
    assert len(levels) == 4
    for feat, stride, nodes in zip(student, STRIDES, levels, strict=True):
        want = roi_align(feat, box_rois(given), 7, 1 / stride, 0, 'avg', True).mean((2, 3))
        torch.testing.assert_close(nodes.student[0], want)
        assert nodes.labels.shape == (1, 6)


def test_levels_of_unlike_channels_are_read_one_by_one():
    feats = [maps(c, (s,))[0] for c, s in zip((3, 5), STRIDES[:2], strict=True)]
    with pytest.raises(ValueError, match=r'as many channels, got \[3, 5\].*every_level=True'):
        InstanceNodes()(feats, feats, samples(random_boxes(2), random_boxes(1)))
    levels = InstanceNodes(every_level=True)(feats, feats, samples(random_boxes(2), random_boxes(1)))
    assert [x.student.shape for x in levels] == [(1, 3, 3), (1, 3, 5)]


def test_horizontal_boxes_and_boxes_from_elsewhere():
    feats, boxes = maps(), [random_boxes(3), random_boxes(2, 1)]
    want, = InstanceNodes()(feats, feats, samples(*boxes))
    got, = InstanceNodes()(feats, feats, samples(*boxes, kind=HorizontalBoxes))
    assert torch.equal(got.student, want.student) and torch.equal(got.labels, want.labels)
    other, = InstanceNodes()(feats, feats, samples(*boxes), boxes=[boxes[1], boxes[1]])
    assert other.student.shape == (1, 4, 3) and other.labels is None
    assert torch.equal(other.student[:, 2:], want.student[:, 3:])


def test_padding_does_not_move_boxes():
    """They are in pixels of the batch, whatever part of it an image takes."""
    feats, boxes = maps(), [random_boxes(3, largest=20), random_boxes(2, 1, largest=20)]
    want, = InstanceNodes()(feats, feats, samples(*boxes))
    got, = InstanceNodes()(feats, feats, samples(*boxes, sizes=[(64, 96), (60, 62)]))
    assert torch.equal(got.student, want.student)


def test_more_boxes_than_wanted():
    feats, boxes = maps(), [random_boxes(9), random_boxes(2, 1)]
    nodes, = InstanceNodes(max_per_image=5)(feats, feats, samples(*boxes))
    assert nodes.labels.tolist() == [[0, 2, 4, 6, 8, 10, 11]]
    everything, = InstanceNodes()(feats, feats, samples(*boxes))
    assert torch.equal(nodes.student[0], everything.student[0, [0, 2, 4, 6, 8, 9, 10]])


@pytest.mark.parametrize('counts', [(0, 0), (1, 0), (0, 1), (0, 2), (1, 1)])
@pytest.mark.parametrize('options', [dict(), dict(pool=False), dict(per_image=True), dict(per_image=True, pool=False),
                                     dict(every_level=True)], ids=str)
def test_few_boxes_or_none(counts, options):
    student, teacher = maps(3, strides=(8,)), maps(5, strides=(8,), seed=1)
    student[0].requires_grad_()
    teacher[0].requires_grad_()
    nodes, = InstanceNodes(**options)(student, teacher, samples(*(random_boxes(n, largest=20) for n in counts)))
    b, v = (2, max(counts)) if options.get('per_image') else (1, sum(counts))
    cells = () if options.get('pool', True) else (49,)
    assert nodes.student.shape == (b, v, *cells, 3) and nodes.teacher.shape == (b, v, *cells, 5)
    assert nodes.labels.shape == (b, v) and (nodes.valid is None or nodes.valid.sum() == sum(counts))
    assert not nodes.teacher.requires_grad
    nodes.student.sum().backward()  # connected to the map, box or no box
    assert bool(student[0].grad.any()) == (sum(counts) > 0) and teacher[0].grad is None


def test_without_a_box_every_level_is_connected():
    feats = [x.requires_grad_() for x in maps()]
    nodes, = InstanceNodes()(feats, maps(), samples(random_boxes(0), random_boxes(0)))
    nodes.student.sum().backward()
    assert all(x.grad.equal(torch.zeros_like(x)) for x in feats)


@pytest.mark.parametrize('box', [[5., 5, 5, 5], [5, 5, 5, 20], [20, 20, 10, 10], [-50, -50, -20, -10],
                                 [200, 200, 300, 300], [-1e4, -1e4, 1e4, 1e4]])
def test_boxes_that_are_none(box):
    feats = [x.requires_grad_() for x in maps(images=1)]
    nodes, = InstanceNodes(output_size=2)(feats, feats, samples(torch.tensor([box])))
    nodes.student.sum().backward()
    assert nodes.student.isfinite().all()
    assert all(x.grad.isfinite().all() for x in feats if x.grad is not None)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_read_in_float32(dtype):
    feats = [x.requires_grad_() for x in maps(dtype=dtype)]
    nodes, = InstanceNodes()(feats, feats, samples(random_boxes(3), random_boxes(2)))
    want, = InstanceNodes()([x.detach().float() for x in feats], feats, samples(random_boxes(3), random_boxes(2)))
    assert nodes.student.dtype == torch.float32 and torch.equal(nodes.student, want.student)
    nodes.student.sum().backward()
    assert feats[0].grad.dtype == dtype
    none, = InstanceNodes()(feats, feats, samples(random_boxes(0), random_boxes(0)))
    assert none.student.dtype == torch.float32


@pytest.mark.parametrize('layout', [
    lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: torch.stack([x, 9 + x], -1).flatten(-2)[..., ::2],
    lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1), value=9)[..., 3:-1, 1:-2]])
def test_layouts(layout):
    """RoIAlign itself takes every map for a contiguous one."""
    leaves, given = [x.requires_grad_() for x in maps()], samples(random_boxes(4), random_boxes(3, 1))
    want, = InstanceNodes(cells=2)(leaves, leaves, given)
    expected = torch.autograd.grad(want.student.square().sum(), leaves, allow_unused=True)
    laid = [layout(x) for x in leaves]
    assert not any(x.is_contiguous() for x in laid)
    got, = InstanceNodes(cells=2)(laid, laid, given)
    assert torch.equal(got.student, want.student) and torch.equal(got.teacher, want.teacher)
    torch.testing.assert_close(torch.autograd.grad(got.student.square().sum(), leaves, allow_unused=True), expected)


def test_gradient_to_the_cells_of_the_box_alone():
    feats = [x.requires_grad_() for x in maps(strides=(8,))]
    nodes, = InstanceNodes()(feats, feats, samples(torch.tensor([[17., 17, 31, 31]]), random_boxes(0)))
    nodes.student.sum().backward()
    touched = feats[0].grad.ne(0).any(1)  # 1.625 to 3.375 in cells
    assert touched[0].nonzero().tolist() == [[i, j] for i in range(1, 5) for j in range(1, 5)]
    assert not touched[1].any()


@pytest.mark.parametrize('given', [None, [], plain_samples([BATCH])])
def test_instances_need_boxes(given):
    with pytest.raises(ValueError, match="instances need data samples with gt_instances.*nodes='grid'"):
        InstanceNodes()(maps(images=1), maps(images=1), given)


# channels

def test_channels():
    student, teacher = maps(3), maps(3, seed=1)
    teacher[0].requires_grad_()
    levels = ChannelNodes()(student, teacher)
    for s, t, nodes in zip(student, teacher, levels, strict=True):
        assert torch.equal(nodes.student, s.view(2, 3, -1)) and torch.equal(nodes.teacher, t.view(2, 3, -1))
        assert nodes.student.data_ptr() == s.data_ptr(), 'a copy of the map'
        assert nodes.valid is None and nodes.labels is None and not nodes.teacher.requires_grad


def test_channels_on_padding_are_zero():
    student, teacher = maps(3), maps(3, seed=1)
    fine = ChannelNodes()(student, teacher, plain_samples([(64, 96), (32, 60)]))[1]  # stride 8
    kept = torch.zeros(2, 8, 12, dtype=torch.bool)
    kept[0], kept[1, :4, :8] = True, True
    for got, feat in ((fine.student, student[1]), (fine.teacher, teacher[1])):
        assert torch.equal(got.view_as(feat), torch.where(kept[:, None], feat, 0))


# grid

def test_grid_cells_are_means():
    student, teacher = maps(3, dtype=torch.float64), maps(5, seed=1, dtype=torch.float64)
    levels = GridNodes(size=4)(student, teacher)
    for s, t, nodes in zip(student, teacher, levels, strict=True):
        rows, columns = min(4, s.shape[2]), min(4, s.shape[3])
        assert nodes.student.shape == (2, rows * columns, 3) and nodes.valid is None
        for got, feat in ((nodes.student, s), (nodes.teacher, t)):
            height, width = feat.shape[2:]
            for i in range(rows):
                for j in range(columns):
                    part = feat[:, :, i * height // rows:-(-(i + 1) * height // rows),
                                j * width // columns:-(-(j + 1) * width // columns)]
                    torch.testing.assert_close(got[:, i * columns + j], part.mean((2, 3)))


def test_grid_of_maps_of_other_sizes():
    """The same share of the image, in both."""
    ramp = torch.linspace(0, 1, 24).view(1, 1, 1, 24).expand(1, 1, 16, 24)
    student, teacher = [ramp], [ramp[..., ::2, ::2] / 2 + ramp[..., ::2, 1::2] / 2]
    nodes, = GridNodes(size=4)(student, teacher)
    torch.testing.assert_close(nodes.student, nodes.teacher)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-12), (torch.bfloat16, 2e-2)])
def test_grid_cells_count_what_is_not_padding(dtype, tolerance):
    student, teacher = maps(3, dtype=dtype), maps(5, seed=1, dtype=dtype)
    nodes = GridNodes(size=4)(student, teacher, plain_samples([(64, 96), (28, 50)]))[0]
    used = student[0][1, :, :7, :13].double()  # of 16 x 24 cells, in bins of 4 x 6
    assert nodes.valid.view(2, 4, 4)[0].all()
    assert nodes.valid.view(2, 4, 4)[1].tolist() == [[True, True, True, False]] * 2 + [[False] * 4] * 2
    for i in range(2):
        for j in range(3):
            want = used[:, 4 * i:4 * i + 4, 6 * j:6 * j + 6].mean((1, 2))
            torch.testing.assert_close(nodes.student[1, 4 * i + j].double(), want, rtol=tolerance, atol=tolerance)
    assert not nodes.student[1, 8:].any() and not nodes.teacher[1, 8:].any()


def test_grid_where_one_side_alone_sees_padding():
    """A coarse map has no cell that is all padding where a finer one does."""
    fine, coarse = [torch.ones(1, 2, 8, 12)], [torch.ones(1, 2, 2, 3)]
    padded = plain_samples([(40, 96)])
    for student, teacher in ((fine, coarse), (coarse, fine)):
        nodes, = GridNodes(size=2)(student, teacher, padded)
        assert nodes.valid is None or nodes.valid.all()
    nodes, = GridNodes(size=8)([torch.ones(1, 2, 8, 8)], [torch.ones(1, 2, 8, 8)], padded)
    assert nodes.valid.view(8, 8)[:, 0].tolist() == [True] * 5 + [False] * 3


def test_grid_gradient_stays_finite_where_all_is_padding():
    feats = [x.requires_grad_() for x in maps(strides=(4,))]
    nodes, = GridNodes(size=8)(feats, maps(strides=(4,)), plain_samples([(64, 96), (1, 1)]))
    nodes.student.square().sum().backward()
    assert feats[0].grad.isfinite().all() and feats[0].grad[1].ne(0).any(0).sum() == 1


# images

def test_images_are_means_or_all_cells():
    student, teacher = maps(3, dtype=torch.float64), maps(5, seed=1, dtype=torch.float64)
    for s, t, nodes in zip(student, teacher, ImageNodes()(student, teacher), strict=True):
        torch.testing.assert_close(nodes.student, s.mean((2, 3))[None])
        torch.testing.assert_close(nodes.teacher, t.mean((2, 3))[None])
        assert nodes.valid is None and nodes.labels is None
    for s, nodes in zip(student, ImageNodes(pool=False)(student, teacher), strict=True):
        assert torch.equal(nodes.student, s.flatten(1)[None])


@pytest.mark.parametrize('pool', [True, False])
def test_images_without_their_padding(pool):
    feats, padded = maps(3, (8,), dtype=torch.float64), plain_samples([(64, 96), (32, 60)])
    nodes, = ImageNodes(pool=pool)(feats, feats, padded)
    used = feats[0][1, :, :4, :8]
    if pool:
        torch.testing.assert_close(nodes.student[0, 1], used.mean((1, 2)))
    else:
        assert nodes.student[0, 1].square().sum() == pytest.approx(used.square().sum().item())
    torch.testing.assert_close(nodes.student[0, 0], feats[0][0].mean((1, 2)) if pool else feats[0][0].flatten())


def test_images_have_the_labels_of_classifiers():
    feats = maps()
    data = [BaseDataElement(gt_label=torch.tensor([y])) for y in (3, 7)]
    assert [x.labels.tolist() for x in ImageNodes()(feats, feats, data)] == [[[3, 7]]] * 4
    data[1].gt_label = torch.tensor([7, 8])  # several classes at once
    assert ImageNodes()(feats, feats, data)[0].labels is None
    del data[1].gt_label
    assert ImageNodes()(feats, feats, data)[0].labels is None


# all

@pytest.mark.parametrize('source', [ChannelNodes(), GridNodes(size=2), ImageNodes(), ImageNodes(pool=False)])
def test_gradients_reach_the_student_alone(source):
    student, teacher = ([x.requires_grad_() for x in maps(seed=seed)] for seed in (0, 1))
    for nodes in source(student, teacher, plain_samples([(64, 96), (32, 60)])):
        assert not nodes.teacher.requires_grad
        nodes.student.square().sum().backward()
    assert all(x.grad.any() for x in student) and all(x.grad is None for x in teacher)


@pytest.mark.parametrize('source', [ChannelNodes(), GridNodes(size=2), ImageNodes()])
def test_levels_must_be_as_many(source):
    with pytest.raises(ValueError, match='zip'):
        source(maps(), maps()[:3])


@pytest.mark.parametrize('config, kind, options', [
    ('channels', ChannelNodes, {}),
    ('grid', GridNodes, dict(size=8)), (dict(type='grid', size=3), GridNodes, dict(size=3)),
    ('images', ImageNodes, dict(pool=True)), (dict(type='images', pool=False), ImageNodes, dict(pool=False)),
    ('instances', InstanceNodes, dict(per_image=False)),
    (dict(type='instances', per_image=True), InstanceNodes, dict(per_image=True))])
def test_sources_from_configs(config, kind, options):
    source = node_source(config)
    assert type(source) is kind and all(getattr(source, name) == value for name, value in options.items())
    assert source.same_shape == (kind is ChannelNodes) and source.labelled == (kind in (ImageNodes, InstanceNodes))


@pytest.mark.parametrize('config', ['boxes', dict(size=3), dict(type='Grid')])
def test_unknown_sources(config):
    with pytest.raises(ValueError, match=r"nodes must be one of \['channels', 'grid', 'images', 'instances'\].*got"):
        node_source(config)


def test_a_config_is_left_as_it_was():
    config = dict(type='grid', size=3)
    node_source(config)
    assert config == dict(type='grid', size=3)


@pytest.mark.parametrize('config, name', [
    (dict(type='grid', size=0), 'size'), (dict(type='instances', output_size=0), 'output_size'),
    (dict(type='instances', cells=0), 'cells'), (dict(type='instances', max_per_image=-1), 'max_per_image')])
def test_sizes_below_one(config, name):
    with pytest.raises(ValueError, match=f'{name} must be at least 1, got {config[name]}'):
        node_source(config)


def test_misspelt_options():
    with pytest.raises(TypeError, match='sizes'):
        node_source(dict(type='grid', sizes=3))
