"""Detectors from configs: every way to name one, and what cannot be one."""
import copy

import pytest
import torch
from conftest import DETECTORS, RESNET, build, distiller, distiller_config, losses, merge, tiny
from mmdet.registry import MODELS
from torch import nn

from mmgkd.detectors import distilled_maps, matching_maps, model_config

RETINA = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'
SMALL = dict(backbone=RESNET, neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
             bbox_head=dict(num_classes=10, in_channels=16, feat_channels=16, stacked_convs=1))


@pytest.fixture
def file(tmp_path):
    """A config file that inherits, as users' files do."""
    path = tmp_path / 'my_retinanet.py'
    path.write_text(f"_base_ = {RETINA!r}\nmodel = dict(bbox_head=dict(num_classes=3))\n")
    return str(path)


def test_a_name_of_mmdet():
    assert model_config(RETINA).type == 'RetinaNet'
    assert model_config(RETINA, dict(bbox_head=dict(num_classes=7))).bbox_head.num_classes == 7
    assert model_config(RETINA).bbox_head.num_classes == 80  # the next reading is as fresh


def test_a_file(file):
    assert model_config(file).bbox_head.num_classes == 3
    assert model_config(file, dict(bbox_head=dict(num_classes=7))).bbox_head.num_classes == 7


def test_a_file_from_where_one_is(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert model_config('my_retinanet.py').bbox_head.num_classes == 3


def test_a_dict_which_stays_as_it_was():
    source, overrides = tiny('retinanet'), dict(bbox_head=dict(num_classes=7), backbone=dict(depth=34))
    before = copy.deepcopy((source, overrides))
    assert model_config(source, overrides).bbox_head.num_classes == 7
    config = model_config(source)
    config.backbone.depth = 50
    assert (source, overrides) == before


@pytest.mark.parametrize('role', ['student', 'teacher'])
@pytest.mark.parametrize('how', ['name', 'file', 'dict', 'config'])
def test_both_roles_take_them_all(file, how, role):
    source = dict(name=RETINA, file=file, dict=tiny('retinanet'), config=dict(config=RETINA))[how]
    teacher = dict(config=tiny('retinanet'))
    if role == 'teacher':
        model = distiller(tiny('retinanet'), dict(
            config=source if how != 'config' else RETINA, overrides=SMALL))
    else:
        source = source if isinstance(source, dict) and 'type' in source else dict(
            config=source['config'] if how == 'config' else source, overrides=SMALL)
        model = distiller(source, teacher)
    assert losses(model)['gkd_vertex'] > 0
    detector = model.student if role == 'student' else model.teacher.detector
    assert detector.neck.fpn_convs[0].conv.weight.shape == (16, 16, 3, 3)


def test_a_whole_name_as_student():
    model = build(distiller_config(RETINA, dict(config=RETINA)))
    assert model.student.backbone.depth == 18 and model.student.bbox_head.num_classes == 80


def test_overrides_of_a_list():
    name = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'
    first, second, _ = model_config(name, dict(roi_head=dict(bbox_head={'1': dict(num_classes=3)}))).roi_head.bbox_head
    assert (first.num_classes, second.num_classes) == (80, 3)
    with pytest.raises(ValueError, match="teacher: overrides .*num_classes.* do not fit its config.*by position"):
        model_config(name, dict(roi_head=dict(bbox_head=dict(num_classes=3))), role='teacher')


def test_overrides_replace_on_request():
    neck = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4)
    assert model_config(RETINA, dict(neck=dict(neck, _delete_=True))).neck.to_dict() == neck


@pytest.mark.parametrize('source, error, message', [
    ('nowhere.py', FileNotFoundError, "student: no config file 'nowhere.py' .looked in .*mmdet::folder/"),
    ('mmdet::nowhere.py', FileNotFoundError, "student: no config 'mmdet::nowhere.py'"),
    ('nopackage::x.py', FileNotFoundError, "student: no config 'nopackage::x.py'"),
    (None, TypeError, 'student must be a config file.*NoneType'), (['a'], TypeError, 'student must be.*list'),
    (dict(), ValueError, 'no model with a type'), (dict(depth=3), ValueError, 'no model with a type'),
    (dict(config=RETINA, override={}), ValueError, r"unknown keys \['override'\] beside config"),
    (dict(tiny(), backbone=None), ValueError, 'FasterRCNN has no backbone.*a detector or a classifier'),
])
def test_what_is_no_detector(source, error, message):
    with pytest.raises(error, match=message):
        model_config(source)


def test_a_file_without_model(tmp_path):
    (tmp_path / 'schedule.py').write_text('train_cfg = dict(max_epochs=3)\n')
    with pytest.raises(ValueError, match='teacher: .*schedule.py holds no model'):
        model_config(str(tmp_path / 'schedule.py'), role='teacher')


def test_errors_name_the_teacher():
    with pytest.raises(ValueError, match='^teacher: FasterRCNN has no backbone'):
        build(distiller_config(teacher=dict(config=dict(tiny(), backbone=None))))


@pytest.mark.parametrize('name', DETECTORS)
def test_maps_are_those_of_a_forward_pass(name):
    config = tiny(name)
    with torch.no_grad():
        feats = build(config).eval().extract_feat(torch.zeros(1, 3, 128, 128))
    assert distilled_maps(model_config(config)) == ('neck', [tuple(x.shape[1:]) for x in feats])


@MODELS.register_module()
class PooledBackbone(nn.Module):
    """A classifier's neck."""

    def forward(self, x):
        return tuple(m.mean((2, 3)) for m in x)


@pytest.mark.parametrize('neck', [None, dict(type='PooledBackbone')])
def test_without_a_neck_that_gives_maps_the_backbone_is_distilled(neck):
    config = model_config(dict(tiny(), neck=neck))
    with torch.no_grad():
        feats = MODELS.build(config.backbone)(torch.zeros(1, 3, 128, 128))
    assert distilled_maps(config) == ('backbone', [tuple(x.shape[1:]) for x in feats])


@MODELS.register_module()
class Stubborn(nn.Module):
    """Reads a value, which a tensor without memory has not."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, 8)

    def forward(self, x):
        return (self.conv(x) * (1 if float(x.sum()) == 0 else 2),)


def test_maps_of_what_needs_real_tensors():
    """For which it builds a real module, whose weights are drawn at random, and leaves no trace of that."""
    config = merge(tiny('detr'), dict(neck=dict(in_channels=[8])))
    config['backbone'] = dict(type='Stubborn')
    state = torch.get_rng_state()
    assert distilled_maps(model_config(config)).shapes == [(16, 16, 16)]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_detector_that_needs_a_larger_image_is_probed_with_one():
    ssd = model_config('mmdet::ssd/ssd300_coco.py')
    student, teacher = matching_maps(ssd, ssd)
    assert student == teacher and len(student.shapes) == 6 and student.shapes[0][0] == 512


def test_a_preprocessor_that_stands_outside_the_model(tmp_path):
    (tmp_path / 'config.py').write_text(
        "model = dict(type='X', backbone=dict(type='Y'))\ndata_preprocessor = dict(type='Z', mean=[1.])\n")
    assert model_config(str(tmp_path / 'config.py')).data_preprocessor.type == 'Z'
