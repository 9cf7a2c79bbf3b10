"""Models and trainings of another default scope than mmdet's, as those of mmpretrain are."""
import sys
from types import ModuleType

import pytest
import torch
from conftest import build, distiller_config, losses, tiny
from mmdet.registry import MODELS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import DefaultScope, Registry
from torch import nn


class Stem(nn.Module):
    """A backbone of one map whose losses go by the one name ``loss``, as those of mmpretrain's classifiers do."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, stride=8, padding=1)

    def forward(self, x):
        return (self.conv(x),)


@pytest.fixture(scope='module')
def elsewhere():
    """The scope of a package of this name, where alone ``Stem`` and ``Plain`` are known."""
    package, registry = ModuleType('elsewhere'), ModuleType('elsewhere.registry')
    registry.MODELS = Registry('model', parent=ROOT_MODELS, scope='elsewhere')
    sys.modules.update({'elsewhere': package, 'elsewhere.registry': registry})
    registry.MODELS.register_module(module=Stem)

    @registry.MODELS.register_module()
    class Plain(MODELS.get('Classifier')):

        def loss(self, inputs, data_samples):
            return dict(loss=self.extract_feat(inputs)[0].square().mean())
    yield 'elsewhere'
    del ROOT_MODELS.children['elsewhere'], sys.modules['elsewhere'], sys.modules['elsewhere.registry']


PLAIN = dict(type='Plain', backbone=dict(type='Stem'), head=dict(type='LinearHead', num_classes=10, in_channels=8),
             data_preprocessor=dict(type='ImgDataPreprocessor', mean=[100.] * 3, std=[50.] * 3))


@pytest.mark.parametrize('name', ['Distiller', 'NeckConnector', 'ChannelGraphLoss', 'HolisticGraphLoss', 'KLLoss',
                                  'Classifier', 'CifarResNet'])
def test_every_scope_finds_models_by_their_plain_names(name, elsewhere):
    assert ROOT_MODELS.children[elsewhere].get(name) is MODELS.module_dict[name]


def test_every_scope_finds_hooks_by_their_plain_names():
    for name in ('DistillWeightHook', 'PrepareLossesHook'):
        assert ROOT_HOOKS.get(name).__module__ == 'mmgkd.hooks'


def test_a_pair_of_another_default_scope(elsewhere):
    with DefaultScope.overwrite_default_scope(elsewhere):
        model = build(dict(
            type='Distiller', student=PLAIN, teacher=dict(config=PLAIN, checkpoint=None, allow_random=True),
            distill_losses=dict(gkd=dict(type='ChannelGraphLoss', num_eigenvectors=2))))
        model.init_weights()
        terms = model.loss(torch.randn(2, 3, 32, 32), [])
    assert {'loss_task', 'loss_gkd_vertex', 'gkd_vertex'} <= set(terms) and 'loss' not in terms
    total, logged = model.parse_losses(terms)
    assert logged['loss'] == total > terms['loss_task']
    model.distill_weight = 0
    assert list(model.loss(torch.randn(2, 3, 32, 32), [])) == ['loss_task']


def test_a_teacher_of_another_scope(tmp_path, elsewhere):
    """Its config says which. The student's, and that of the training, is mmdet's."""
    config = tmp_path / 'teacher.py'
    config.write_text(f'default_scope = {elsewhere!r}\nmodel = {dict(PLAIN, backbone=dict(type="Stem", channels=16))}')
    model = build(distiller_config(teacher=dict(config=str(config)), connector=dict(
        type='NeckConnector', student_levels=[1], teacher_levels=[0])))
    model.init_weights()
    assert isinstance(model.teacher.detector.backbone, Stem)
    assert losses(model)['loss_gkd_vertex'][0] > 0
    with pytest.raises(KeyError, match='Stem is not in the mmdet'):  # which mmdet's scope does not know
        build(distiller_config(teacher=dict(config=PLAIN)))._load_teacher()


def test_a_student_of_another_scope(tmp_path, elsewhere):
    config = tmp_path / 'student.py'
    config.write_text(f'default_scope = {elsewhere!r}\nmodel = {PLAIN}')
    model = build(distiller_config(student=str(config), teacher=dict(config=tiny()), connector=dict(
        type='NeckConnector', student_levels=[0], teacher_levels=[1])))
    assert isinstance(model.student.backbone, Stem)
