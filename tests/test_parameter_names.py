"""A distiller's parameters have a plain detector's names, by which optimisers set learning rates."""
import pytest
import torch
from conftest import build, distiller_config, neck, tiny
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from torch import nn

WIDER = dict(config=tiny(**neck(24)))


@MODELS.register_module()
class TinyConvNeXt(nn.Module):
    """The parameters of a ConvNeXt, named as mmpretrain names them."""

    def __init__(self):
        super().__init__()
        widths = [3, 4, 4, 4, 4]
        self.downsample_layers = nn.ModuleList([
            nn.Conv2d(widths[i], widths[i + 1], 4 if i == 0 else 2, 4 if i == 0 else 2) for i in range(4)])
        self.stages = nn.ModuleList([
            nn.Sequential(*[nn.Conv2d(4, 4, 1) for _ in range(9 if i == 2 else 3)]) for i in range(4)])

    def forward(self, x):
        maps = []
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
            maps.append(x)
        return tuple(maps)

    def get_layer_depth(self, name, prefix):
        """As mmpretrain's backbones say it: what is not below the prefix comes after the last layer."""
        return (int(name.split('.')[2]), 5) if name.startswith(prefix) else (4, 5)


CONVNEXT = dict(tiny(neck=dict(in_channels=[4] * 4)), backbone=dict(type='TinyConvNeXt'))


def test_names_are_the_checkpoints():
    model, alone = build(distiller_config(teacher=WIDER)), build(tiny())
    names = [name for name, _ in model.named_parameters()]
    own = [name for name in names if name.startswith('connector.')]
    assert own and set(names) - set(own) == {name for name, _ in alone.named_parameters()}
    assert set(names) <= set(model.state_dict())
    assert all(model.get_parameter(name) is parameter for name, parameter in model.named_parameters())
    assert [f'x.{name}' for name in names] == [name for name, _ in model.named_parameters('x')]
    assert [id(p) for p in model.parameters()] == [id(p) for p in nn.Module.parameters(model)]
    assert list(model.named_parameters(recurse=False)) == []


def rates(model, constructor, **paramwise):
    """Parameter to learning rate and weight decay."""
    wrapper = build_optim_wrapper(model, dict(
        constructor=constructor, optimizer=dict(type='AdamW', lr=1., weight_decay=.1), paramwise_cfg=paramwise))
    return {id(p): (group['lr'], group['weight_decay']) for group in wrapper.optimizer.param_groups
            for p in group['params']}


@pytest.mark.parametrize('decay_type', ['layer_wise', 'stage_wise'])
def test_layer_wise_rates_are_the_plain_students(decay_type):
    options = dict(decay_rate=.5, decay_type=decay_type, num_layers=6)
    constructor = 'LearningRateDecayOptimizerConstructor'
    alone, model = build(CONVNEXT), build(distiller_config(CONVNEXT, WIDER))
    expected, found = (rates(m, constructor, **options) for m in (alone, model))
    by_name = {name: expected[id(p)] for name, p in alone.named_parameters()}
    assert {name: found[id(p)] for name, p in model.student.named_parameters()} == by_name
    assert by_name['backbone.stages.0.0.weight'][0] < by_name['backbone.stages.3.0.weight'][0] < 1
    assert {found[id(p)][0] for p in model.connector.parameters()} == {1.}


def test_custom_keys_are_the_plain_students():
    keys = {'backbone': dict(lr_mult=.1), 'backbone.stages.3': dict(lr_mult=.5, decay_mult=0)}
    alone, model = build(CONVNEXT), build(distiller_config(CONVNEXT))
    expected, found = (rates(m, 'DefaultOptimWrapperConstructor', custom_keys=keys) for m in (alone, model))
    assert {name: found[id(p)] for name, p in model.student.named_parameters()} \
        == {name: expected[id(p)] for name, p in alone.named_parameters()}
    assert {rate for rate, _ in found.values()} == {.1, .5, 1.}


def test_layer_depths_are_the_students():
    model = build(distiller_config(CONVNEXT, WIDER))
    model.student.get_layer_depth = lambda name: model.student.backbone.get_layer_depth(name, 'backbone.')
    assert model.get_layer_depth('student.backbone.stages.2.0.weight') == (2, 5)
    assert model.get_layer_depth('student.rpn_head.rpn_conv.weight') == (4, 5)
    assert model.get_layer_depth('connector.projections.0.conv.weight') == (4, 5)


def test_a_student_without_layer_depths_says_so():
    with pytest.raises(AttributeError, match='FasterRCNN.*get_layer_depth'):
        build(distiller_config()).get_layer_depth('student.backbone.conv1.weight')


def test_names_survive_training(train):
    """With an average of the weights, which goes by names."""
    runner = train(distiller_config(tiny('retinanet'), dict(config=tiny('retinanet'))),
                   custom_hooks=[dict(type='EMAHook')])
    saved = torch.load(f'{runner.work_dir}/epoch_1.pth', weights_only=False)['state_dict']
    assert set(saved) == set(build(tiny('retinanet')).state_dict())
