"""Backbones by torchvision's names, where torchvision is not installed."""
import importlib.util

import pytest
import torch
from conftest import build, tiny
from mmengine.runner import CheckpointLoader

from mmgkd.pretrained import backbone_addresses

ADDRESS = 'https://download.pytorch.org/models/resnet50-0676ba61.pth'


def test_addresses_are_found_anywhere_in_a_model():
    init = dict(type='Pretrained', checkpoint='torchvision://resnet50')
    model = dict(backbone=dict(init_cfg=init), others=[dict(init_cfg=[init])], roi_head=dict(checkpoint='x.pth'))
    assert list(backbone_addresses(model)) == [ADDRESS, ADDRESS]


def test_an_unknown_name():
    with pytest.raises(FileNotFoundError, match="no backbone 'resnet5'"):
        list(backbone_addresses(dict(checkpoint='torchvision://resnet5')))


@pytest.mark.skipif(importlib.util.find_spec('torchvision') is not None, reason='MMEngine asks torchvision itself')
def test_a_backbone_starts_from_the_kept_file(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    config = tiny(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')))
    kept = build(tiny()).backbone.state_dict()
    torch.save(kept, tmp_path / 'checkpoints' / ADDRESS.rpartition('/')[2])
    detector = build(config)
    assert not torch.equal(detector.backbone.conv1.weight, kept['conv1.weight'])
    detector.init_weights()
    assert torch.equal(detector.backbone.conv1.weight, kept['conv1.weight'])
    assert CheckpointLoader.load_checkpoint('torchvision://resnet50').keys() == kept.keys()
