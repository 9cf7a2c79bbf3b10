"""What losses are given of heads, on mmdet's own detectors."""
import copy
import functools
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    DENSE,
    FPN,
    RESNET,
    ROI,
    ROOT,
    RPN,
    build,
    distiller,
    distiller_config,
    losses,
    merge,
    raw_batch,
    teacher_file,
    tiny,
    total,
)
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox_overlaps, get_box_tensor
from mmengine.config import Config, ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from torch import nn

from mmgkd import Classifier, ClsDataSample, DistillLoss
from mmgkd.detectors import model_config
from mmgkd.features import capture_calls, evaluating
from mmgkd.readings import READINGS, watch_head

GN = dict(norm_cfg=dict(type='GN', num_groups=4))
SHAPES = (64, 64), (64, 48)
TWO_STAGE, ONE_STAGE = ['faster_rcnn', 'mask_rcnn'], ['retinanet', 'fcos', 'gfl']
OTHERS = {
    'atss': ('atss/atss_r50_fpn_1x_coco.py', dict(bbox_head=dict(DENSE, **GN))),
    'paa': ('paa/paa_r50_fpn_1x_coco.py', dict(bbox_head=dict(DENSE, **GN))),
    'vfnet': ('vfnet/vfnet_r50_fpn_1x_coco.py', dict(bbox_head=dict(DENSE, **GN))),
    'tood': ('tood/tood_r50_fpn_1x_coco.py', dict(bbox_head=merge(dict(DENSE, **GN), dict(stacked_convs=2)))),
    'ga': ('guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py', dict(bbox_head=DENSE)),
    'yolox': ('yolox/yolox_tiny_8xb8-300e_coco.py', dict(
        data_preprocessor=dict(batch_augments=None), backbone=dict(widen_factor=0.125, deepen_factor=0.33),
        neck=dict(in_channels=[32, 64, 128], out_channels=16, num_csp_blocks=1),
        bbox_head=dict(num_classes=10, in_channels=16, feat_channels=16))),
    'ohem': ('faster_rcnn/faster-rcnn_r50_fpn_ohem_1x_coco.py', dict(rpn_head=RPN, roi_head=ROI,
        train_cfg=dict(rcnn=dict(sampler=dict(num=32))))),
    'cascade': ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', dict(
        rpn_head=RPN, roi_head=dict(bbox_roi_extractor=dict(out_channels=16)))),
}
"""More of mmdet's detectors: a config, and what makes it small."""


@MODELS.register_module()
class Reader(DistillLoss):
    """Keeps what it is given."""

    same_shape = False
    weights = dict(nothing=1.)

    def __init__(self, needs):
        super().__init__()
        self.needs = needs

    def forward(self, student_feats, teacher_feats, data_samples=None, **readings):
        self.given = readings
        return dict(nothing=[(student_feats[0] * 0).sum()])


def reading(*needs):
    return dict(reader=dict(type='Reader', needs=needs))


@functools.cache
def config(name):
    if name not in OTHERS:
        return tiny(name)
    path, small = OTHERS[name]
    cfg = model_config(f'mmdet::{path}', dict(dict(neck=FPN, backbone=RESNET), **small)).to_dict()
    if name == 'cascade':
        for head in cfg['roi_head']['bbox_head']:
            head.update(in_channels=16, fc_out_channels=16)
    return cfg


def pair(student, teacher, *needs, **more):
    """A distiller that reads."""
    return distiller(student, dict(config=teacher), distill_losses=reading(*needs), **more)


@pytest.fixture(scope='module')
def twins(tmp_path_factory):
    """Function that gives a distiller whose networks are one: the same weights, the same statistics."""
    def make(name, *needs, **changes):
        cfg = merge(config(name), changes)
        path = teacher_file(tmp_path_factory.mktemp(name) / 'teacher.pth', cfg)
        model = distiller(cfg, dict(config=cfg, checkpoint=path, allow_random=False), distill_losses=reading(*needs))
        model.student.load_state_dict(torch.load(path)['state_dict'])
        model.student.backbone.eval()
        return model
    return make


def read(model, shapes=SHAPES, boxes=(3, 2), epoch=0):
    """A batch, and what the loss is given for it."""
    MessageHub.get_current_instance().update_info('epoch', epoch)  # TOOD's assigner asks
    torch.manual_seed(0)
    data = model.data_preprocessor(raw_batch(shapes, list(boxes)), True)
    model(**data, mode='loss')
    return data, model.distill_losses.reader.given


def truth(data):
    return [(get_box_tensor(s.gt_instances.bboxes), s.gt_instances.labels) for s in data['data_samples']]


# ---- predictions

@pytest.mark.parametrize('name', [*TWO_STAGE, *ONE_STAGE, 'atss', 'tood', 'ohem'])
def test_equal_networks_predict_alike_of_the_same_rows(twins, name):
    model = twins(name, 'predictions')
    _, given = read(model)
    p = given['predictions']
    assert list(given) == ['predictions'] and len(p.student) > 20
    assert p.student.shape == p.teacher.shape and p.student.std() > 1e-3
    torch.testing.assert_close(p.student, p.teacher, rtol=1e-3, atol=1e-4)
    if name == 'gfl':
        assert p.student_bins.shape == (len(p.student), 4, 17)
        torch.testing.assert_close(p.student_bins, p.teacher_bins, rtol=1e-3, atol=1e-3)
    else:
        assert p.student_bins is None and p.teacher_bins is None


@pytest.mark.parametrize('name', [*TWO_STAGE, *ONE_STAGE])
def test_the_gradient_is_the_students_alone(name):
    model = pair(tiny(name), tiny(name), 'predictions')
    p = read(model)[1]['predictions']
    assert not p.teacher.requires_grad and (p.teacher_bins is None or not p.teacher_bins.requires_grad)
    p.student.square().sum().backward()
    reached = {n for n, q in model.named_parameters() if q.grad is not None and q.grad.any()}
    assert 'backbone.conv1.weight' in reached and any('bbox_head' in n for n in reached)
    assert all(q.grad is None for q in model.teacher.detector.parameters())


@pytest.mark.parametrize('name', [*TWO_STAGE, 'ohem'])
def test_rois_with_their_logits_and_labels(twins, name):
    model = twins(name, 'predictions')
    data, given = read(model)
    p = given['predictions']
    assert p.activation == 'softmax' and p.confidence is None and p.student.shape[1] == 11
    assert set(p.rois[:, 0].tolist()) == {0, 1}
    with torch.no_grad():
        scores = model.student.roi_head._bbox_forward(model.extract_feat(data['inputs']), p.rois)['cls_score']
    torch.testing.assert_close(p.student, scores)
    assert p.labels.dtype == torch.int64 and torch.equal(p.foreground, p.labels < 10)
    assert p.foreground.any() and not p.foreground.all()
    for i, (boxes, labels) in enumerate(truth(data)):
        mine = p.rois[:, 0] == i
        best, which = bbox_overlaps(p.rois[mine, 1:], boxes).max(1)
        assert torch.equal(p.labels[mine], torch.where(best >= .5, labels[which], 10))


@MODELS.register_module()
class NamingRoIHead(StandardRoIHead):
    """Calls its extractor by keywords."""

    def _bbox_forward(self, x, rois):
        feats = self.bbox_roi_extractor(rois=rois, feats=x[:self.bbox_roi_extractor.num_inputs])
        cls_score, bbox_pred = self.bbox_head(feats)
        return dict(cls_score=cls_score, bbox_pred=bbox_pred, bbox_feats=feats)


def test_rois_that_are_given_by_keyword():
    cfg = tiny(roi_head=dict(type='NamingRoIHead'))
    torch.manual_seed(0)
    named = read(pair(cfg, cfg, 'predictions'))[1]['predictions']
    plain = read(pair(tiny(), tiny(), 'predictions'))[1]['predictions']
    assert torch.equal(named.rois, plain.rois) and torch.equal(named.student, plain.student)


def priors_of(head, maps):
    """(M, 4) anchors, or (M, 3) points and their level, of one image."""
    found = head.prior_generator.grid_priors([x.shape[2:] for x in maps], device='cpu')
    return [torch.cat([x, torch.full((len(x), 1), float(i))], 1) if x.shape[1] == 2 else x
            for i, x in enumerate(found)]


def rows_of(maps, channels):
    """Level by level, image by image, row by row, column by column, box by box."""
    return torch.stack([x[n, a * channels:(a + 1) * channels, row, column] for x in maps for n in range(len(x))
                        for row in range(x.shape[2]) for column in range(x.shape[3])
                        for a in range(x.shape[1] // channels)])


@pytest.mark.parametrize('name', ONE_STAGE)
def test_the_order_of_locations(name):
    model = pair(tiny(name), tiny(name), 'predictions')
    with capture_calls({model.student.bbox_head: 'student', model.teacher.detector.bbox_head: 'teacher'}) as calls:
        p = read(model)[1]['predictions']
    student, teacher = (next(call.output for call in calls if call.name == of) for of in ('student', 'teacher'))
    assert len(calls) == 2 and p.activation == 'sigmoid' and p.rois is None
    assert torch.equal(p.student, rows_of(student[0], 10)) and torch.equal(p.teacher, rows_of(teacher[0], 10))
    if name == 'gfl':
        assert torch.equal(p.student_bins.flatten(1), rows_of(student[1], 4 * 17))
        assert torch.equal(p.teacher_bins.flatten(1), rows_of(teacher[1], 4 * 17))


def retinanet_labels(anchors, boxes, labels):
    """At least half overlapped, or the best of some box."""
    overlaps = bbox_overlaps(anchors, boxes)
    found = [labels[row.argmax()].item() if row.max() >= .5 else 10 for row in overlaps]
    for k, column in enumerate(overlaps.T):
        for i, overlap in enumerate(column):
            if overlap == column.max() > 0:
                found[i] = labels[k].item()
    return found


def fcos_labels(points, boxes, labels):
    """Inside the smallest box whose farthest edge is in the level's range."""
    ranges, found = ((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8)), []
    for x, y, level in points.tolist():
        fitting = []
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            distances = x - x1, y - y1, x2 - x, y2 - y
            if min(distances) > 0 and ranges[int(level)][0] <= max(distances) <= ranges[int(level)][1]:
                fitting.append(((x2 - x1) * (y2 - y1), label))
        found.append(min(fitting)[1] if fitting else 10)
    return found


@pytest.mark.parametrize('name, expected', [('retinanet', retinanet_labels), ('fcos', fcos_labels)])
def test_labels_of_locations(name, expected):
    model = pair(tiny(name), tiny(name), 'predictions')
    data, given = read(model)
    p = given['predictions']
    with torch.no_grad():
        maps = model.student.bbox_head(model.extract_feat(data['inputs']))[0]
    priors = priors_of(model.student.bbox_head, maps)
    per_image = [torch.tensor(expected(torch.cat(priors), *each)).split([len(x) for x in priors])
                 for each in truth(data)]
    want = torch.cat([torch.cat(level) for level in zip(*per_image, strict=True)])
    assert torch.equal(p.labels, want) and torch.equal(p.foreground, want < 10)
    assert p.foreground.any() and not p.foreground.all()


@pytest.mark.parametrize('name, epoch', [('gfl', 0), ('atss', 0), ('tood', 0), ('tood', 9)])
def test_objects_are_where_the_boxes_are(name, epoch):
    """Heads with assigners of their own, whose losses are given more than labels, or change with time."""
    model = pair(config(name), config(name), 'predictions')
    data, given = read(model, epoch=epoch)
    p = given['predictions']
    with torch.no_grad():
        maps = model.student.bbox_head(model.extract_feat(data['inputs']))[0]
    centres = [(x[:, :2] + x[:, 2:]) / 2 for x in priors_of(model.student.bbox_head, maps)]
    where = torch.cat([torch.cat([F.pad(c, (1, 0), value=i) for i in range(2)]) for c in centres])  # (M, 3)
    assert len(where) == len(p.labels) and p.foreground.any() and not p.foreground.all()
    for (image, x, y), label in zip(where[p.foreground].tolist(), p.labels[p.foreground].tolist(), strict=True):
        boxes, labels = truth(data)[int(image)]
        inside = (boxes[:, 0] < x) & (x < boxes[:, 2]) & (boxes[:, 1] < y) & (y < boxes[:, 3])
        assert label in labels[inside]


def test_probabilities_are_turned_into_logits():
    """TOOD's head gives the former."""
    model = pair(config('tood'), config('tood'), 'predictions')
    with capture_calls({model.student.bbox_head: 'student', model.teacher.detector.bbox_head: 'teacher'}) as calls:
        p = read(model)[1]['predictions']
    for call in calls:
        torch.testing.assert_close(getattr(p, call.name).sigmoid(), rows_of(call.output[0], 10))


@pytest.mark.parametrize('name, shapes, known', [
    ('vfnet', SHAPES, False),  # its loss is given no labels
    ('paa', SHAPES, False),    # its loss is given them image by image
    ('paa', SHAPES[:1], True)])
def test_labels_in_another_order_are_not_read(name, shapes, known):
    p = read(pair(config(name), config(name), 'predictions'), shapes, [3, 2][:len(shapes)])[1]['predictions']
    assert (p.labels is not None) == (p.foreground is not None) == known
    assert p.confidence.shape == p.student.shape[:1]


def test_labels_are_read_beside_logits_that_overflowed():
    """In half precision: the loss is nan then, and a loss scaler skips the step."""
    model = pair(tiny('fcos'), tiny('fcos'), 'predictions')
    labels = read(model)[1]['predictions'].labels
    model.student.bbox_head.conv_cls.bias.data[0] = float('nan')
    assert torch.equal(read(model)[1]['predictions'].labels, labels)


@pytest.mark.parametrize('name', ONE_STAGE)
def test_confidence_is_the_teachers_and_nothing_on_padding(name):
    model = pair(tiny(name), tiny(name), 'predictions')
    p = read(model)[1]['predictions']
    boxes = 9 if name == 'retinanet' else 1
    place = 0
    for side in (8, 4, 2, 1, 1):
        for width in (64, 48):
            for _ in range(side):
                for column in range(side):
                    for _ in range(boxes):
                        used = column * 64 / side < width
                        want = 1 / (1 + torch.exp(-p.teacher[place].max())) if used else 0.
                        assert p.confidence[place].item() == pytest.approx(float(want), rel=1e-5)
                        place += 1
    assert place == len(p.confidence) and (p.confidence == 0).any()


def test_confidence_in_the_background_does_not_count():
    """Heads whose softmax has a class for the background, as SSD's."""
    cfg = tiny('retinanet', bbox_head=dict(loss_cls=dict(
        _delete_=True, type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.)))
    model = pair(cfg, cfg, 'predictions')
    model.teacher.detector.bbox_head.retina_cls.bias.data.view(9, 11)[:, 10] = 3  # it sees background everywhere
    p = read(model, SHAPES[:1], [3])[1]['predictions']
    assert p.activation == 'softmax' and p.student.shape[1] == 11 and (p.teacher.argmax(1) == 10).all()
    torch.testing.assert_close(p.confidence, p.teacher.softmax(1)[:, :10].max(1).values)


def test_images_without_boxes():
    for name in ('faster_rcnn', 'retinanet', 'gfl'):
        _, given = read(pair(tiny(name), tiny(name), *READINGS), boxes=[0, 0])
        assert not given['predictions'].foreground.any()
        assert [len(x) for side in given['instance_logits'] for x in side] == [0] * 4
        assert len(given['proposals'].boxes) == 2


# ---- proposals

def test_sampled_rois_are_proposals(twins):
    model = twins('faster_rcnn', 'predictions', 'proposals')
    _, given = read(model)
    p, proposals = given['predictions'], given['proposals']
    assert len(proposals.boxes) == len(proposals.foreground) == len(proposals.teacher_loss) == 2
    assert torch.equal(torch.cat(proposals.boxes), p.rois[:, 1:])
    assert [len(b) for b in proposals.boxes] == [(p.rois[:, 0] == i).sum() for i in range(2)]
    assert torch.equal(torch.cat(proposals.foreground), p.foreground)
    want = [-row.log_softmax(0)[label] for row, label in zip(p.teacher, p.labels, strict=True)]
    torch.testing.assert_close(torch.cat(proposals.teacher_loss), torch.stack(want))
    assert not torch.cat(proposals.teacher_loss).requires_grad


@pytest.mark.parametrize('teacher', [
    tiny(roi_head=dict(bbox_head=dict(num_classes=7))), tiny('retinanet'), config('cascade')],
    ids=['classes', 'dense', 'cascade'])
def test_a_teacher_that_does_not_compare_has_no_loss_on_proposals(teacher):
    proposals = read(pair(tiny(), teacher, 'proposals'))[1]['proposals']
    assert proposals.teacher_loss is None and len(proposals.boxes[0])


def test_binary_cross_entropy_of_proposals():
    cfg = tiny(roi_head=dict(bbox_head=dict(loss_cls=dict(use_sigmoid=True))))
    given = read(pair(cfg, cfg, 'predictions', 'proposals'))[1]
    p = given['predictions']
    assert p.activation == 'sigmoid'
    want = [sum(-F.logsigmoid(x if c == label else -x) for c, x in enumerate(row))
            for row, label in zip(p.teacher, p.labels, strict=True)]
    torch.testing.assert_close(torch.cat(given['proposals'].teacher_loss), torch.stack(want))


@pytest.mark.parametrize('name, changes', [
    ('retinanet', {}), ('gfl', {}), ('fcos', dict(bbox_head=dict(norm_on_bbox=True))), ('vfnet', {}), ('yolox', {})])
def test_a_dense_heads_boxes_are_proposals(twins, name, changes):
    """What it would predict, in pixels of the batch, however unlikely."""
    model = twins(name, 'proposals', **changes)
    for m in model.student.bbox_head.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()
    data, given = read(model, ((160, 160), (160, 128)))
    head = copy.deepcopy(model.student.bbox_head)
    assert head.training
    head.test_cfg = ConfigDict(head.test_cfg, score_thr=0., max_per_img=100)
    with evaluating(head):
        want = head.predict(model.extract_feat(data['inputs']), data['data_samples'], rescale=False)
    want = [x[:100] for x in want]  # YOLOX gives all
    proposals = given['proposals']
    assert proposals.teacher_loss is None
    for found, foreground, expected in zip(proposals.boxes, proposals.foreground, want, strict=True):
        torch.testing.assert_close(found, expected.bboxes)
        assert 0 < len(found) <= 100 and foreground.dtype == torch.bool and foreground.all()
        assert not found.requires_grad and found.max() > 4


def test_evaluating_leaves_everything_as_it_was():
    part = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    part[1].eval()
    modes = [m.training for m in part.modules()]
    with pytest.raises(KeyError), evaluating(part):
        assert not any(m.training for m in part.modules()) and not torch.is_grad_enabled()
        raise KeyError
    assert [m.training for m in part.modules()] == modes and torch.is_grad_enabled()


def test_reading_changes_no_state_of_the_student():
    """Batch norms and dropout of its head see one batch, not two."""
    cfg = tiny(roi_head=dict(bbox_head=dict(
        _delete_=True, type='ConvFCBBoxHead', in_channels=16, roi_feat_size=7, num_classes=10, num_shared_convs=1,
        num_shared_fcs=1, conv_out_channels=8, fc_out_channels=16, norm_cfg=dict(type='BN'),
        loss_cls=dict(type='CrossEntropyLoss'), loss_bbox=dict(type='L1Loss'))))
    states = []
    for needs in ((), tuple(READINGS)):
        model = pair(cfg, cfg, *needs)
        read(model)
        states.append((model.student.state_dict(), torch.get_rng_state(), [m.training for m in model.modules()]))
    (first, *rest), (second, *others) = states
    assert all(torch.equal(v, second[k]) for k, v in first.items())
    assert torch.equal(rest[0], others[0]) and rest[1] == others[1]
    assert any('running_mean' in k and 'bbox_head' in k for k in first)


# ---- the logits of instances

def test_rois_logits_of_instances(twins):
    model = twins('faster_rcnn', 'instance_logits')
    data, given = read(model, boxes=[3, 1])
    student, teacher = given['instance_logits']
    assert [x.shape for x in student] == [x.shape for x in teacher] == [(3, 11), (1, 11)]
    feats = model.extract_feat(data['inputs'])
    for i, (boxes, _) in enumerate(truth(data)):
        rois = F.pad(boxes, (1, 0), value=i)
        with torch.no_grad():
            want = model.student.roi_head._bbox_forward(feats, rois)['cls_score']
        torch.testing.assert_close(student[i], want)
        torch.testing.assert_close(teacher[i], want, rtol=1e-3, atol=1e-4)
        assert not student[i].requires_grad


def test_dense_logits_of_instances_are_the_best_anchors(twins):
    """Of a head that says the same everywhere, but something else with each of its nine anchors."""
    model = twins('retinanet', 'instance_logits')
    said = torch.randn(2, 90)
    for head, bias in zip((model.student.bbox_head, model.teacher.detector.bbox_head), said, strict=True):
        head.retina_cls.weight.data.zero_()
        head.retina_cls.bias.data = bias.clone()
    data, given = read(model, boxes=[3, 1])
    for found, bias in zip(given['instance_logits'], said, strict=True):
        assert [x.shape for x in found] == [(3, 10), (1, 10)]
        for row in torch.cat(found):
            torch.testing.assert_close(row, bias.view(9, 10).max(0).values)


def test_dense_logits_of_instances_are_those_in_the_box(twins):
    """A small box is read at the finest level, where it lies."""
    model = twins('fcos', 'instance_logits')
    torch.manual_seed(0)
    batch = raw_batch(((64, 64),), [1])
    batch['data_samples'][0].gt_instances.bboxes = torch.tensor([[16., 24., 32., 40.]])
    data = model.data_preprocessor(batch, True)
    with capture_calls({model.student.bbox_head: 'head'}) as calls:
        model(**data, mode='loss')
    row, = model.distill_losses.reader.given['instance_logits'].student[0]
    inside = calls[0].output[0][0][0, :, 3:5, 2:4]  # stride 8
    low, high = (getattr(calls[0].output[0][0][0, :, 2:6, 1:5].flatten(1), which)(1).values for which in ('min', 'max'))
    assert ((low <= row) & (row <= high)).all()
    torch.testing.assert_close(row, inside.mean((1, 2)), rtol=.05, atol=.05)


def test_more_instances_than_graphs_have_nodes(twins):
    model = twins('retinanet', 'instance_logits')
    assert [len(x) for x in read(model, boxes=[140, 1])[1]['instance_logits'].student] == [140, 1]


# ---- classifiers

@MODELS.register_module()
class Pooling(BaseModule):
    """A neck that gives vectors; as a head it has no last layer."""

    def __init__(self, in_channels=None, init_cfg=None):
        super().__init__(init_cfg)

    def forward(self, feats):
        return tuple(x.amax((2, 3)) for x in feats)


@MODELS.register_module()
class Headless(Classifier):
    """What is left where there is no head."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        del self.head


def classifier(width=1, num_classes=5, neck=True, **more):
    head = dict(type='LinearHead', num_classes=num_classes, in_channels=64 * width)
    return dict(dict(
        type='Classifier', backbone=dict(type='CifarResNet', depth=8, width=width), head=head,
        neck=dict(type='Pooling') if neck else None,
        data_preprocessor=dict(type='ImgDataPreprocessor', mean=[9.] * 3, std=[50.] * 3)), **more)


def images(count=3, labelled=True):
    torch.manual_seed(0)
    samples = [ClsDataSample(metainfo=dict(img_shape=(32, 32))) for _ in range(count)]
    for i, sample in enumerate(samples):
        if labelled:
            sample.gt_label = torch.tensor([i])
    return dict(inputs=[torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8) for _ in range(count)],
                data_samples=samples)


@pytest.mark.parametrize('neck', [True, False])
def test_predictions_of_classifiers(neck):
    model = pair(classifier(1, neck=neck), classifier(2, neck=neck), 'predictions', 'instance_logits')
    model.student.eval()
    data = model.data_preprocessor(images(), True)
    model(**data, mode='loss')
    p, instances = (model.distill_losses.reader.given[n] for n in ('predictions', 'instance_logits'))
    torch.testing.assert_close(p.student, model.student(data['inputs']))
    torch.testing.assert_close(p.teacher, model.teacher.detector(data['inputs']))
    assert p.student.requires_grad and not p.teacher.requires_grad
    assert p.activation == 'softmax' and p.labels.tolist() == [0, 1, 2] and p.foreground.all()
    assert p.confidence is p.rois is None
    for found, logits in zip(instances, (p.student, p.teacher), strict=True):
        assert [x.shape for x in found] == [(1, 5)] * 3 and torch.equal(torch.cat(found), logits)
        assert not found[0].requires_grad


def test_a_classifiers_images_may_be_unlabelled():
    model = pair(classifier(), classifier(), 'predictions')
    data = model.data_preprocessor(images(), True)
    with watch_head(model.student, ['predictions']) as head:
        model.student(data['inputs'])
    feats = model.student.backbone(data['inputs'])
    p = head.read(feats, feats, model.teacher, images(labelled=False)['data_samples'])['predictions']
    assert p.labels is None and p.foreground is None


# ---- errors, all of them before the first iteration

@pytest.mark.parametrize('student, teacher, says', [
    (tiny(), tiny(roi_head=dict(bbox_head=dict(num_classes=7))), 'classes: 10 and 7'),
    (tiny('retinanet'), tiny('retinanet', bbox_head=dict(num_classes=7)), 'classes: 10 and 7'),
    (classifier(), classifier(num_classes=7), 'classes: 5 and 7'),
    (tiny(), tiny('retinanet'), 'the student has a RoI head, the teacher a dense head'),
    (tiny('fcos'), tiny(), 'the student has a dense head, the teacher a RoI head'),
    (tiny(), config('cascade'), "teacher's CascadeRoIHead is a cascade of 3 box heads"),
    (config('cascade'), tiny(), "student's CascadeRoIHead is a cascade of 3 box heads"),
    (tiny('fcos'), tiny('retinanet'), r'boxes per location: \[1, 1, 1, 1, 1\] and \[9, 9, 9, 9, 9\]'),
    (tiny('fcos'), tiny('fcos', bbox_head=dict(strides=[4, 8, 16, 32, 64])), 'strides'),
    (tiny(), tiny(roi_head=dict(bbox_head=dict(loss_cls=dict(use_sigmoid=True)))), 'activation: softmax and sigmoid'),
    (tiny('detr'), tiny('detr'), 'DETRHead does not give whole maps of class logits'),
    (config('ga'), config('ga'), 'GARetinaHead does not give whole maps of class logits'),
    (tiny(), tiny(roi_head=dict(bbox_head=dict(loss_cls=dict(
        _delete_=True, type='SeesawLoss', num_classes=10)))), 'SeesawLoss gives no plain logits'),
], ids=lambda x: '' if isinstance(x, dict) else re.sub(r'\W+', ' ', x)[:30])
def test_heads_that_do_not_compare(student, teacher, says):
    model = build(distiller_config(student, dict(config=teacher), distill_losses=reading('predictions')))
    with pytest.raises(ValueError, match=says):
        model.init_weights()


@pytest.mark.parametrize('of', ['student', 'teacher'])
@pytest.mark.parametrize('changes, says', [
    (dict(type='Headless'), 'a Headless, has none of a RoI head, a dense head, a classifier\'s head'),
    (dict(head=dict(type='Pooling')), 'Pooling has no last layer fc')])
def test_without_a_head(of, changes, says):
    models = dict(student=classifier(), teacher=classifier()) | {of: classifier(**changes)}
    model = build(distiller_config(models['student'], dict(config=models['teacher']),
                                   distill_losses=reading('predictions')))
    with pytest.raises(ValueError, match=f'the {of}.*{says}'):
        model.init_weights()


def test_classifiers_have_no_proposals():
    model = build(distiller_config(classifier(), dict(config=classifier()), distill_losses=reading('proposals')))
    with pytest.raises(ValueError, match=r"need \['proposals'\].*a classifier's head.*only"):
        model.init_weights()


def test_unknown_readings():
    with pytest.raises(ValueError, match=r"Reader: needs must be of .*'predictions'.*, got \['logits'\]"):
        build(distiller_config(distill_losses=reading('predictions', 'logits')))


def test_a_checkpoint_without_head(tmp_path):
    path = teacher_file(tmp_path / 'teacher.pth')
    weights = torch.load(path)['state_dict']
    torch.save({k: v for k, v in weights.items() if k.startswith(('backbone', 'neck', 'rpn_head'))}, path)
    teacher = dict(checkpoint=path, allow_random=False)
    distiller(teacher=teacher)  # maps alone need none
    with pytest.raises(ValueError, match=r'missing \(roi_head'):
        distiller(teacher=teacher, distill_losses=reading('predictions'))


# ---- what it costs, and whom it concerns

def test_the_teacher_keeps_its_head_only_if_it_is_read():
    for needs, parts in (((), ['backbone', 'neck']), (('predictions',), ['backbone', 'neck', 'rpn_head', 'roi_head'])):
        model = pair(tiny(), tiny(), *needs)
        assert [name for name, _ in model.teacher.detector.named_children()] == parts
        assert not any(m.training for m in model.teacher.detector.modules() if not isinstance(m, nn.Identity))
        assert not any('teacher' in k for k in model.state_dict())


@pytest.mark.parametrize('name', ['faster_rcnn', 'retinanet', 'gfl'])
def test_every_head_runs_once(name):
    model = pair(tiny(name), tiny(name), 'predictions', 'proposals')
    watched = {getattr(of, 'roi_head', of).bbox_head: role for role, of in (
        ('student', model.student), ('teacher', model.teacher.detector))}
    hooks = [len(m._forward_hooks) for m in model.modules()]
    with capture_calls(watched) as calls:
        read(model)
    assert sorted(call.name for call in calls) == ['student', 'teacher']
    assert [len(m._forward_hooks) for m in model.modules()] == hooks


def test_nothing_is_read_once_distillation_has_stopped():
    model = pair(tiny(), tiny(), 'predictions')
    model.distill_weight = 0
    losses(model)
    assert not hasattr(model.distill_losses.reader, 'given')


KD = dict(kd=dict(type='KLLoss', loss_weight=10.), dist=dict(type='DISTLoss'))


def test_inference_needs_no_teacher():
    teacher = dict(config='nowhere/teacher.py', checkpoint='nowhere/teacher.pth', allow_random=False)
    model = build(distiller_config(teacher=teacher, distill_losses=KD)).eval()
    alone = build(tiny()).eval()
    alone.load_state_dict(model.state_dict())
    data = model.data_preprocessor(raw_batch(), False)
    for a, b in zip(*(m(**copy.deepcopy(data), mode='predict') for m in (model, alone)), strict=True):
        assert torch.equal(a.pred_instances.scores, b.pred_instances.scores)


def test_the_students_own_losses_stay():
    torch.manual_seed(0)
    alone = build(tiny())
    alone.init_weights()
    own, terms = losses(alone.train()), losses(distiller(distill_losses=KD))
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for k in own for a, b in zip(
        *(x[k] if isinstance(x[k], list) else [x[k]] for x in (own, terms)), strict=True))
    assert set(terms) - set(own) == {f'{kind}{term}' for kind in ('', 'loss_')
                                     for term in ('kd_kl', 'dist_inter', 'dist_intra')}


@pytest.mark.parametrize('name', ['faster_rcnn', 'gfl'])
def test_checkpointed_backbone_and_frozen_stages(name):
    """with_cp runs the backbone again in the backward pass."""
    extra = dict(ld=dict(type='LDLoss')) if name == 'gfl' else {}
    gradients = []
    for with_cp in (False, True):
        cfg = tiny(name, backbone=dict(with_cp=with_cp, frozen_stages=1))
        model = distiller(cfg, dict(config=tiny(name)), distill_losses=dict(KD, **extra))
        terms = losses(model)
        sum(value for k, values in terms.items() if re.match('loss_(kd|dist|ld)', k) for value in values).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert not any('layer1' in n for n in gradients[0]) and any('layer2' in n for n in gradients[0])
    for n, grad in gradients[0].items():
        torch.testing.assert_close(gradients[1][n], grad)


@pytest.mark.parametrize('name', ['retinanet', 'gfl'])
def test_mixed_precision(name):
    model = distiller(tiny(name), dict(config=tiny(name)), distill_losses=KD)
    shapes = (128, 128), (128, 96)
    full = losses(model, shapes)
    with torch.autocast('cpu', torch.bfloat16):
        half = losses(model, shapes)
    value, log = model.parse_losses(half)
    value.backward()
    assert value.isfinite() and not [n for n, p in model.named_parameters() if not p.grad.isfinite().all()]
    assert log['kd_kl'].dtype == torch.float32
    assert log['kd_kl'].item() == pytest.approx(full['kd_kl'].item(), rel=.1)


def test_double_precision():
    model = distiller(tiny('retinanet'), dict(config=tiny('retinanet')), distill_losses=KD).double()
    assert losses(model)['kd_kl'].dtype == torch.float64


# ---- learning

def sure(path, cfg):
    """A teacher whose predictions are no guesses."""
    state = torch.load(teacher_file(path, cfg))
    for k, v in state['state_dict'].items():
        if re.search(r'(fc_cls|retina_cls|conv_cls|gfl_cls|gfl_reg|fc)\.weight', k):
            v.mul_(2 / (v.std() * v[0].numel() ** .5))
    torch.save(state, path)
    return dict(config=cfg, checkpoint=str(path), allow_random=False)


def trained(path, name, distill_losses):
    """The logs of a few iterations on one batch."""
    torch.manual_seed(0)
    cfg = tiny(name)
    model = distiller(cfg, sure(path, cfg), distill_losses=distill_losses)
    optimiser = OptimWrapper(torch.optim.Adam(model.parameters(), lr=3e-3))
    logs = []
    for _ in range(15):
        torch.manual_seed(1)
        logs.append(model.train_step(raw_batch(boxes=[4, 4]), optimiser))
    return logs


@pytest.mark.parametrize('name', ['faster_rcnn', 'retinanet', 'fcos', 'gfl'])
def test_training_lowers_the_losses(tmp_path, name):
    logs = trained(tmp_path / 'teacher.pth', name, KD)
    for term in ('kd_kl', 'dist_inter', 'dist_intra'):
        first, last = (sum(log[term] for log in part) for part in (logs[:3], logs[-3:]))
        assert last < .9 * first, term


def test_training_with_ld_brings_the_distributions_closer(tmp_path):
    """Closer than without: each is weighted by the student's confidence, which rises."""
    without, with_it = (trained(tmp_path / 'teacher.pth', 'gfl', dict(ld=dict(type='LDLoss', loss_weight=weight)))
                        for weight in (1e-9, 5.))
    assert with_it[-1]['ld_bins'] < .8 * without[-1]['ld_bins']


# ---- the configs of the methods

@pytest.mark.parametrize('path, model', [
    ('kd.py', tiny()), ('dist.py', tiny()), ('one_stage/kd.py', tiny('retinanet')), ('one_stage/dist.py', tiny('fcos')),
    ('one_stage/ld.py', tiny('gfl')), ('classification/kd.py', classifier()), ('classification/dist.py', classifier())],
    ids=lambda x: x if isinstance(x, str) else '')
def test_method_files(path, model):
    cfg = Config.fromfile(ROOT / 'configs/_base_' / path)
    assert set(cfg.keys()) == {'distill_losses', 'distill_hooks'} and cfg.distill_hooks == []
    distilled = distiller(model, dict(config=model), distill_losses=cfg.distill_losses)
    data = images() if 'classification' in path else raw_batch()
    terms = distilled(**distilled.data_preprocessor(data, True), mode='loss')
    name, = cfg.distill_losses
    assert any(k.startswith(f'loss_{name}_') for k in terms)
    value = total(distilled, terms)
    value.backward()
    assert value.isfinite() and all(p.grad is not None for p in distilled.parameters() if p.requires_grad)


def test_published_weights():
    kd, = Config.fromfile(ROOT / 'configs/_base_/classification/kd.py').distill_losses.values()
    assert kd == dict(type='KLLoss', loss_weight=1., temperature=4.)
    dist, = Config.fromfile(ROOT / 'configs/_base_/classification/dist.py').distill_losses.values()
    assert dist == dict(type='DISTLoss', inter_weight=2., intra_weight=2., temperature=1.)
    ld, = Config.fromfile(ROOT / 'configs/_base_/one_stage/ld.py').distill_losses.values()
    assert ld == dict(type='LDLoss', loss_weight=0.25, temperature=10.)


@pytest.mark.parametrize('name', ['gkd', 'hkd', 'rkd'])
def test_a_method_with_kd_is_both_of_their_files(name):
    both, method, kd = (Config.fromfile(ROOT / f'configs/_base_/classification/{path}.py')
                        for path in (f'{name}_kd', name, 'kd'))
    assert both.distill_losses == {**method.distill_losses, **kd.distill_losses}
    assert both.distill_hooks == method.distill_hooks
