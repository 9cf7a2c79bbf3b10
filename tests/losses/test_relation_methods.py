"""The method files of the relational losses, and the losses within a distiller."""
import pytest
import torch
from conftest import ROOT, distiller, losses, merge, neck, tiny, total
from mmdet.registry import MODELS
from mmengine.config import Config

from mmgkd.nodes import ImageNodes, InstanceNodes

FILES = {
    'geometric': ('geometric', {'edge': 1.}), 'classification/geometric': ('geometric', {'edge': 25.}),
    'rkd': ('rkd', {'distance': 2.5, 'angle': 5.}), 'classification/rkd': ('rkd', {'distance': 25., 'angle': 50.}),
    'sp': ('sp', {'similarity': 3.}), 'classification/sp': ('sp', {'similarity': 3000.}),
    'dsig': ('dsig', {'foreground': 1., 'background': 1., 'edge': 2.}),
    'one_stage/dsig': ('dsig', {'foreground': 1., 'background': 0., 'edge': 2.})}


def method(path):
    return Config.fromfile(ROOT / 'configs/_base_' / f'{path}.py')


@pytest.mark.parametrize('path', FILES)
def test_method_files(path):
    config, (name, weights) = method(path), FILES[path]
    assert set(config.keys()) == {'distill_losses', 'distill_hooks'}
    assert list(config.distill_losses) == [name] and config.distill_hooks == []
    loss = MODELS.build(config.distill_losses[name])
    assert loss.weights == weights
    if name != 'dsig':
        assert isinstance(loss.nodes, ImageNodes if 'classification' in path else InstanceNodes)
        assert getattr(loss.nodes, 'pool', True) == (path not in ('classification/geometric', 'classification/sp'))


@pytest.mark.parametrize('path', ['geometric', 'rkd', 'sp'])
@pytest.mark.parametrize('student', ['faster_rcnn', 'retinanet'])
def test_a_step_of_training(student, path):
    """The teacher's maps have other channels; nothing is learned to bridge that."""
    model = distiller(tiny(student), teacher=dict(config=tiny(**neck(24, neck=dict(num_outs=5)))),
                      connector=dict(student_levels=[0, 1, 2], teacher_levels=[1, 2, 3])
                      if student == 'retinanet' else None, distill_losses=dict(method(path).distill_losses))
    assert not list(model.connector.parameters())
    terms = losses(model)
    total(model, terms).backward()
    assert all(terms[f'{path}_{term}'] > 0 for term in FILES[path][1])
    for values in terms.values():
        assert all(torch.isfinite(v).all() for v in (values if isinstance(values, list) else [values]))
    assert all(p.grad.isfinite().all() for p in model.student.parameters() if p.grad is not None)


@pytest.mark.parametrize('student, path', [('faster_rcnn', 'dsig'), ('retinanet', 'one_stage/dsig')])
def test_dsig_with_what_the_student_proposes(student, path):
    other = merge(neck(24), dict(neck=dict(num_outs=5))) if student == 'faster_rcnn' else dict(
        neck=dict(out_channels=24), bbox_head=dict(in_channels=24))
    model = distiller(tiny(student), teacher=dict(config=tiny(student, **other)),
                      distill_losses=dict(method(path).distill_losses))
    terms = losses(model)
    total(model, terms).backward()
    used = {'foreground', 'background', 'edge'} if student == 'faster_rcnn' else {'foreground', 'edge'}
    assert {name for name in terms if name.startswith('dsig')} == {f'dsig_{term}' for term in used}
    assert all(0 < terms[f'dsig_{term}'] < 100 for term in used)
    assert all(p.grad.isfinite().all() for p in model.student.parameters() if p.grad is not None)
    assert any(p.grad.any() for p in model.connector.parameters())


def test_channels_as_nodes_get_a_connector():
    model = distiller(teacher=dict(config=tiny(**neck(24))), distill_losses=dict(
        rkd=dict(type='RKDLoss', nodes='channels', max_nodes=8),
        sp=dict(type='SimilarityPreservingLoss', loss_weight=1., nodes='grid')))
    terms = losses(model)
    total(model, terms).backward()
    assert terms['rkd_angle'] > 0 and terms['sp_similarity'] > 0
    assert all(p.grad.any() for name, p in model.connector.named_parameters() if 'weight' in name)


@pytest.mark.parametrize('path', ['geometric', 'rkd', 'sp'])
def test_a_step_without_a_box(path):
    model = distiller(distill_losses=dict(method(path).distill_losses))
    terms = losses(model, boxes=[0, 0])
    total(model, terms).backward()
    assert all(terms[f'{path}_{term}'] == 0 for term in FILES[path][1])
