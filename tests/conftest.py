"""Detectors, batches and distillers small enough to run anywhere, shared by the tests."""
import functools
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import mmgkd  # noqa: F401  (registers Distiller)
from mmgkd.detectors import model_config

ROOT = Path(__file__).resolve().parents[1]
init_default_scope('mmdet')

GKD = dict(gkd=dict(type='ChannelGraphLoss', num_eigenvectors=4))
RESNET = dict(depth=18, base_channels=8, frozen_stages=-1, norm_cfg=dict(requires_grad=True), norm_eval=False,
              init_cfg=None)
WIDTHS = [8, 16, 32, 64]  # of RESNET's stages
DENSE = dict(num_classes=10, in_channels=16, feat_channels=16, stacked_convs=1)
ROI = dict(bbox_roi_extractor=dict(out_channels=16),
           bbox_head=dict(in_channels=16, fc_out_channels=16, num_classes=10))
FPN = dict(in_channels=WIDTHS, out_channels=16)
RPN = dict(in_channels=16, feat_channels=16)
HEADS = dict(embed_dims=16, num_heads=2)
LAYER = dict(self_attn_cfg=HEADS, ffn_cfg=dict(embed_dims=16, feedforward_channels=16))
DECODER = dict(num_layers=1, layer_cfg=dict(LAYER, cross_attn_cfg=HEADS))
ENCODER = dict(num_layers=1, layer_cfg=LAYER)

DETECTORS = {
    'faster_rcnn': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', dict(
        neck=FPN, rpn_head=RPN, roi_head=ROI,
        train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=50), rcnn=dict(sampler=dict(num=32))))),
    'mask_rcnn': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', dict(neck=FPN, rpn_head=RPN, roi_head=dict(
        ROI, mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=10)))),
    'retinanet': ('retinanet/retinanet_r18_fpn_1x_coco.py', dict(neck=FPN, bbox_head=DENSE)),
    'fcos': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', dict(
        neck=FPN, bbox_head=dict(DENSE, norm_cfg=dict(type='GN', num_groups=4)))),
    'gfl': ('gfl/gfl_r50_fpn_1x_coco.py', dict(
        neck=FPN, bbox_head=dict(DENSE, norm_cfg=dict(type='GN', num_groups=4)))),
    'detr': ('detr/detr_r50_8xb2-150e_coco.py', dict(
        neck=dict(in_channels=WIDTHS[3:], out_channels=16), encoder=ENCODER, decoder=DECODER, num_queries=10,
        positional_encoding=dict(num_feats=8), bbox_head=dict(embed_dims=16, num_classes=10))),
    'deformable_detr': ('deformable_detr/deformable-detr_r50_16xb2-50e_coco.py', dict(
        neck=dict(in_channels=WIDTHS[1:], out_channels=16, norm_cfg=dict(num_groups=4)), encoder=ENCODER,
        decoder=DECODER, num_queries=10, positional_encoding=dict(num_feats=8),
        bbox_head=dict(embed_dims=16, num_classes=10))),
}


def merge(base, more):
    """Both dicts, the second's values winning, level by level."""
    return {**base, **{k: merge(base[k], v) if isinstance(base.get(k), dict) and isinstance(v, dict) else v
                       for k, v in more.items()}}


@functools.cache
def _base(path):
    return model_config(f'mmdet::{path}')


def tiny(name='faster_rcnn', **overrides):
    """The model config of one of mmdet's detectors, shrunk."""
    path, small = DETECTORS[name]
    return model_config(_base(path), merge(dict(small, backbone=RESNET), overrides)).to_dict()


def neck(channels, **more):
    """Overrides that give a Faster R-CNN's neck so many channels."""
    return merge(dict(
        neck=dict(out_channels=channels), rpn_head=dict(in_channels=channels), roi_head=dict(
            bbox_roi_extractor=dict(out_channels=channels), bbox_head=dict(in_channels=channels))), more)


def build(config):
    model = MODELS.build(Config(dict(model=config)).model)
    for p in model.parameters():  # some of mmdet's are uninitialised memory until init_weights
        p.data.nan_to_num_(0, 0, 0)
    return model


def teacher_file(path, config=None, seed=1):
    """A checkpoint of random weights, with statistics in its batch norms that are not the default."""
    torch.manual_seed(seed)
    detector = build(config or tiny())
    detector.init_weights()
    for m in detector.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, .1)
            m.running_var.uniform_(.5, 2)
            m.weight.data.uniform_(.5, 2)
            m.bias.data.normal_(0, .1)
    torch.save(dict(state_dict=detector.state_dict(), meta=dict(mmdet_version='2.28.0')), path)
    return str(path)


def distiller_config(student=None, teacher=None, **kwargs):
    """A config; the teacher is random unless ``teacher`` says otherwise."""
    return dict(dict(type='Distiller', student=student or tiny(), distill_losses=GKD, teacher=dict(
        dict(config=tiny(), checkpoint=None, allow_random=True), **(teacher or {}))), **kwargs)


def distiller(student=None, teacher=None, seed=0, **kwargs):
    """A model ready to train."""
    torch.manual_seed(seed)
    model = build(distiller_config(student, teacher, **kwargs))
    model.init_weights()
    return model.train()


def raw_batch(shapes=((64, 64), (64, 48)), boxes=None, **kwargs):
    """What a data loader gives."""
    return demo_mm_inputs(len(shapes), [(3, *shape) for shape in shapes], num_items=boxes, num_classes=10,
                          with_mask=True, **kwargs)


def losses(model, *args, seed=0, **kwargs):
    """The losses of one batch, its random sampling seeded."""
    torch.manual_seed(seed)
    return model(**model.data_preprocessor(raw_batch(*args, **kwargs), True), mode='loss')


def total(model, terms):
    return model.parse_losses(terms)[0]


@pytest.fixture(scope='session', autouse=True)
def one_thread():
    """Sums in one order, so that equal runs give equal bits, those of fixtures of whole modules too."""
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    """A checkpoint of the tiny Faster R-CNN, as mmdet 2.x wrote them."""
    return teacher_file(tmp_path_factory.mktemp('teacher') / 'teacher.pth')


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A data set of 8 and 4 images of 96 pixels."""
    pytest.importorskip('sklearn')
    sys.path.append(str(ROOT / 'tools'))
    from make_digits import make_digits
    out = tmp_path_factory.mktemp('digits') / 'data'
    make_digits(out, train=8, val=4, size=96)
    return out


def run_config(data, work_dir, model, epochs=1, *, flip=0., val=False, **more):
    """The whole config of a short training run, a value or a dict of changes per part of it."""
    load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(96, 96), keep_ratio=True),
            dict(type='LoadAnnotations', with_bbox=True)]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')

    def loader(split, *steps, **kwargs):
        dataset = dict(
            type='CocoDataset', data_root=f'{data}/', ann_file=f'annotations/{split}.json',
            data_prefix=dict(img=f'images/{split}/'), metainfo=dict(classes=tuple('0123456789')),
            pipeline=[*load, *steps], **kwargs)
        return dict(batch_size=4, num_workers=0, dataset=dataset,
                    sampler=dict(type='DefaultSampler', shuffle=split == 'train'))

    held_out = loader('val', dict(type='PackDetInputs', meta_keys=keys), test_mode=True)
    metric = dict(type='CocoMetric', ann_file=f'{data}/annotations/val.json', metric='bbox')
    return Config(merge(dict(
        default_scope='mmdet', custom_imports=dict(imports=['mmgkd'], allow_failed_imports=False),
        model=model, work_dir=str(work_dir), experiment_name=str(work_dir).replace('/', '_'),
        log_level='WARNING',
        train_dataloader=loader('train', dict(type='RandomFlip', prob=flip), dict(type='PackDetInputs')),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_dataloader=held_out if val else None, val_evaluator=metric if val else None,
        val_cfg=dict() if val else None,
        test_dataloader=held_out, test_evaluator=metric, test_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3), clip_grad=dict(max_norm=35)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1),
                           logger=dict(type='LoggerHook', interval=1)),
        visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')]),
        randomness=dict(seed=0)), more), format_python_code=False)


@pytest.fixture
def train(digits, tmp_path):
    """Function that trains a model config and returns the runner."""
    runs = iter(range(100))

    def run(model, epochs=1, **more):
        runner = Runner.from_cfg(run_config(digits, tmp_path / f'run{next(runs)}', model, epochs, **more))
        runner.train()
        return runner
    return run
