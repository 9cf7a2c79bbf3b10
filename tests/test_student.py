"""What a student inherits."""
import re

import pytest
import torch
from conftest import build, distiller, distiller_config, neck, teacher_file, tiny

from mmgkd import distiller as distiller_module
from mmgkd import student as module
from mmgkd.student import inherit_weights, parse_inherit


@pytest.fixture
def told(monkeypatch):
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda message, *args, **kwargs: lines.append(message))
    return lines


@pytest.fixture(scope='module')
def deeper(tmp_path_factory):
    """A teacher of another backbone and more classes, and its checkpoint."""
    config = tiny(backbone=dict(depth=34), roi_head=dict(bbox_head=dict(num_classes=20)))
    return dict(config=config, allow_random=False,
                checkpoint=teacher_file(tmp_path_factory.mktemp('deeper') / 'teacher.pth', config))


def part(key):
    return 'neck' if key.startswith('neck.') else 'backbone' if key.startswith('backbone.') else 'head'


@pytest.mark.parametrize('inherit', ['neck', 'head', 'neck+head', 'backbone', 'backbone+neck+head'])
def test_copies_what_has_the_same_name_and_shape(deeper, told, inherit):
    before = distiller(teacher=deeper).student.state_dict()
    after = distiller(teacher=deeper, inherit=inherit).student.state_dict()
    weights = torch.load(deeper['checkpoint'])['state_dict']
    copied = {k for k in before if part(k) in inherit.split('+')
              and k in weights and weights[k].shape == before[k].shape}
    assert copied and all(torch.equal(v, weights[k] if k in copied else before[k]) for k, v in after.items())
    wanted = sum(part(k) in inherit.split('+') for k in before)
    found = re.findall(r'(\d+) of (\d+) of the (\w+)', told[-1])
    assert [part for *_, part in found] == inherit.split('+')
    assert [sum(int(pair[i]) for pair in found) for i in (0, 1)] == [len(copied), wanted]
    if 'head' in inherit:
        assert 'not roi_head.bbox_head.fc_cls.weight' in told[-1]
        assert 'roi_head.bbox_head.fc_cls.weight' not in copied
        assert {'rpn_head.rpn_conv.weight', 'roi_head.bbox_head.shared_fcs.0.weight'} <= copied


def test_a_second_start_leaves_what_was_trained(deeper):
    """A runner initialises the model at each call of ``train``; a plain detector stays as it is then."""
    model = distiller(teacher=deeper, inherit='neck+head')
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.)
    trained = {k: v.clone() for k, v in model.student.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(v, trained[k]) for k, v in model.student.state_dict().items())


@pytest.mark.parametrize('inherit', [None, ''])
def test_off_by_default(deeper, told, inherit):
    torch.manual_seed(0)
    alone = build(tiny())
    alone.init_weights()
    for kwargs in ({}, dict(inherit=inherit)):
        after = distiller(teacher=deeper, **kwargs).student.state_dict()
        assert all(torch.equal(v, after[k]) for k, v in alone.state_dict().items())
    assert not told


def test_the_teachers_tensors_are_not_the_students(deeper):
    weights = torch.load(deeper['checkpoint'])['state_dict']
    student = build(tiny())
    inherit_weights(student, weights, ('neck',))
    with torch.no_grad():
        student.neck.lateral_convs[0].conv.weight.zero_()
    assert weights['neck.lateral_convs.0.conv.weight'].any()


def test_none_fits(tmp_path):
    config = tiny(**neck(24))
    path = teacher_file(tmp_path / 'teacher.pth', config)
    with pytest.raises(ValueError, match="inherit='neck': none of the student's 16 tensors.*leave inherit"):
        distiller(teacher=dict(config=config, checkpoint=path), inherit='neck')


def test_nothing_to_inherit_from():
    with pytest.raises(ValueError, match='no checkpoint .*nothing can be inherited'):
        distiller(inherit='neck')


@pytest.mark.parametrize('how', ['load_from', 'resume', 'neither'])
def test_what_is_loaded_over_it_is_said(train, tmp_path, monkeypatch, how):
    config = distiller_config(teacher=dict(
        config=tiny(), checkpoint=teacher_file(tmp_path / 'teacher.pth'), allow_random=False), inherit='neck')
    path = str(tmp_path / 'student.pth')
    torch.save(build(tiny()).state_dict(), path)
    lines = []
    monkeypatch.setattr(distiller_module, 'print_log', lambda message, *args: lines.append(message))
    if how == 'resume':
        path = f'{train(config).work_dir}/epoch_1.pth'
    train(config, 2 if how == 'resume' else 1, **{} if how == 'neither' else dict(
        load_from=path, resume=how == 'resume'))
    assert len(lines) == (how == 'load_from')
    assert all('loaded over what it had inherited (neck)' in line for line in lines)


@pytest.mark.parametrize('inherit', ['necks', 'neck+', 'neck,head', 'neck + head'])
def test_unknown_parts(inherit):
    with pytest.raises(ValueError, match="inherit must be parts of .*'neck\\+head'"):
        build(distiller_config(inherit=inherit))


def test_parse():
    assert parse_inherit('neck+head') == ('neck', 'head') and parse_inherit(None) == ()
