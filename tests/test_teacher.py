"""The teacher: frozen, asleep, strictly loaded, and nobody's child."""
import copy
from collections import OrderedDict

import pytest
import torch
from conftest import (
    RESNET,
    build,
    distiller,
    distiller_config,
    losses,
    merge,
    neck,
    raw_batch,
    teacher_file,
    tiny,
    total,
)
from mmdet.models.dense_heads import FCOSHead
from mmdet.models.detectors import FasterRCNN
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.model import BaseModule, MMDistributedDataParallel
from torch import nn

from mmgkd import Teacher
from mmgkd import teacher as teacher_module

SWIN = merge(tiny(), dict(neck=dict(in_channels=[8, 16, 32, 64])))
SWIN['backbone'] = dict(type='SwinTransformer', embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2],
                        window_size=4, drop_rate=.5, attn_drop_rate=.5, drop_path_rate=.9)


def maps(model, *args):
    batch = model.data_preprocessor(raw_batch(*args), True)
    return model.teacher(batch['inputs'], batch['data_samples'])


def close(a, b, tolerance=1e-4):
    return all((x - y).norm() <= tolerance * y.norm() for x, y in zip(a, b, strict=True))


@pytest.fixture
def loaded(checkpoint):
    return distiller(teacher=dict(checkpoint=checkpoint, allow_random=False))


@pytest.mark.parametrize('config', [tiny(), SWIN], ids=['batch norm', 'dropout and stochastic depth'])
def test_stays_asleep(config):
    model = distiller(teacher=dict(config=config))
    first = maps(model)
    for wake in (model.train, model.teacher.detector.train, model.student.train, lambda: losses(model)):
        wake()
        assert not any(m.training for m in model.teacher.detector.modules() if not isinstance(m, nn.Identity))
        assert all(torch.equal(a, b) for a, b in zip(maps(model), first, strict=True))


def test_a_sleepless_swin_would_differ():
    """What the test above relies on."""
    backbone = build(SWIN).backbone
    backbone.train()
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(backbone(x)[-1], backbone(x)[-1])


def test_is_backbone_and_neck_without_gradient(loaded):
    assert [name for name, _ in loaded.teacher.detector.named_children()] == ['backbone', 'neck']
    assert not any(p.requires_grad for p in loaded.teacher.detector.parameters())
    assert not any(x.requires_grad for x in maps(loaded))
    modes = []
    loaded.teacher.detector.backbone.register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    before = copy.deepcopy(loaded.teacher.detector.state_dict())
    total(loaded, losses(loaded)).backward()
    assert modes == [False]
    assert all(p.grad is None for p in loaded.teacher.detector.parameters())
    assert all(torch.equal(v, before[k]) for k, v in loaded.teacher.detector.state_dict().items())


def test_is_nowhere_in_the_module_tree(loaded):
    theirs = {id(t) for t in loaded.teacher.detector.state_dict(keep_vars=True).values()}
    assert loaded.state_dict().keys() == build(tiny()).state_dict().keys()
    ours = [*loaded.parameters(), *loaded.buffers(), *loaded.state_dict(keep_vars=True).values()]
    assert theirs.isdisjoint(map(id, ours))
    assert not any(isinstance(m, Teacher) or m is loaded.teacher.detector for m in loaded.modules())


def test_is_not_optimised(loaded):
    from mmengine.optim import build_optim_wrapper
    custom = dict(custom_keys=dict(backbone=dict(lr_mult=.1)))
    groups = build_optim_wrapper(loaded, dict(
        optimizer=dict(type='SGD', lr=1.), paramwise_cfg=custom)).optimizer.param_groups
    optimised = {id(p): group['lr'] for group in groups for p in group['params']}
    assert optimised == {id(p): .1 if name.startswith('backbone') else 1.
                         for name, p in loaded.student.named_parameters()}


def test_a_copy_shares_it(loaded):
    assert copy.deepcopy(loaded).teacher.detector is loaded.teacher.detector


@pytest.mark.parametrize('spoil', [
    lambda m: m.to(torch.float64), lambda m: m.to('meta'), lambda m: m.eval()],
    ids=['dtype', 'device', 'eval'])
def test_what_is_done_to_a_copy_leaves_it_alone(loaded, spoil):
    """An EMA copy may live on another device than the model (``EMAHook(device=...)``)."""
    before = maps(loaded)
    spoil(copy.deepcopy(loaded))
    assert all(torch.equal(a, b) for a, b in zip(maps(loaded), before, strict=True))


@pytest.mark.parametrize('order', ['loaded first', 'moved first'])
@pytest.mark.parametrize('move, dtype', [
    (lambda m: m.half(), torch.float16), (lambda m: m.to(torch.float64), torch.float64),
    (lambda m: m.bfloat16(), torch.bfloat16), (lambda m: m.half().float(), torch.float32)],
    ids=['half', 'float64', 'bfloat16', 'there and back'])
def test_moves_with_the_model(checkpoint, order, move, dtype):
    """Whether it is loaded already or not."""
    model = build(distiller_config(teacher=dict(checkpoint=checkpoint, allow_random=False)))
    if order == 'moved first':
        move(model)
    model.init_weights()
    if order == 'loaded first':
        move(model)
    batch = model.data_preprocessor(raw_batch(), True)
    feats = model.teacher(batch['inputs'].to(dtype), batch['data_samples'])
    assert {x.dtype for x in feats} == {dtype} and all(x.isfinite().all() for x in feats)


def test_follows_the_batch_to_its_device(loaded):
    feats = loaded.teacher(torch.zeros(1, 3, 64, 64, device='meta'), None)
    assert {x.device.type for x in feats} == {'meta'}


# ---- folding

def unfolded(config, path):
    detector = build(config).eval()
    detector.load_state_dict(torch.load(path)['state_dict'])
    return detector


@pytest.mark.parametrize('name', ['faster_rcnn', 'fcos', 'deformable_detr'])
def test_folded_exactly(tmp_path, name):
    config = tiny(name)
    config['backbone']['depth'] = 50
    config['neck']['in_channels'] = [4 * c for c in config['neck']['in_channels']]
    path = teacher_file(tmp_path / 'teacher.pth', config)
    model = distiller(config, dict(config=config, checkpoint=path, allow_random=False))
    assert not [m for m in model.teacher.detector.modules() if isinstance(m, nn.BatchNorm2d)]
    inputs = model.data_preprocessor(raw_batch(), True)['inputs']
    with torch.no_grad():
        expected = unfolded(config, path).extract_feat(inputs)
    got = maps(model)
    assert close(got, expected, 1e-5)
    assert not all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))  # in another way


@MODELS.register_module()
class NormFirst(BaseModule):
    """Registers a norm after a convolution, and runs it before."""

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        return (self.conv(self.bn(self.stem(x)).relu()),)


@MODELS.register_module()
class SharedConv(NormFirst):
    """Uses the convolution before the norm once more without it."""

    def forward(self, x):
        x = self.stem(x)
        return (self.bn(self.conv(x)) + self.conv(x.relu()),)


@MODELS.register_module()
class LooseNorm(NormFirst):
    """Its norm has neither scale nor shift of its own."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(8, affine=False)


@pytest.mark.parametrize('backbone', ['NormFirst', 'SharedConv', 'LooseNorm'])
def test_not_folded_where_that_is_another_function(tmp_path, backbone):
    config = tiny('detr', neck=dict(in_channels=[8]))
    config['backbone'] = dict(type=backbone)
    torch.manual_seed(0)
    detector = build(config)
    detector.backbone.bn.running_mean.normal_()
    torch.save(detector.state_dict(), tmp_path / 'teacher.pth')
    model = distiller(config, dict(config=config, checkpoint=str(tmp_path / 'teacher.pth')))
    with torch.no_grad():
        expected = detector.eval().extract_feat(model.data_preprocessor(raw_batch(), True)['inputs'])
    assert close(maps(model), expected, 1e-6)


@MODELS.register_module()
class FusedDetector(FasterRCNN):
    """A detector of one's own, with a part of its own between image and maps."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fuse = nn.Conv2d(3, 3, 3, padding=1)

    def extract_feat(self, batch_inputs):
        return super().extract_feat(self.fuse(batch_inputs))


@MODELS.register_module()
class HelpedDetector(FusedDetector):
    """One whose ``extract_feat`` does not name the part that it needs."""

    def extract_feat(self, batch_inputs):
        return FasterRCNN.extract_feat(self, self._prepared(batch_inputs))

    def _prepared(self, batch_inputs):
        return self.fuse(batch_inputs)


@pytest.mark.parametrize('kind', ['FusedDetector', 'HelpedDetector'])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_a_part_of_ones_own_gives_features(tmp_path, kind, dtype):
    config = dict(tiny(), type=kind)
    path = teacher_file(tmp_path / 'teacher.pth', config)
    detector = build(config).eval()
    detector.load_state_dict(torch.load(path)['state_dict'])
    model = distiller(teacher=dict(config=config, checkpoint=path, allow_random=False, dtype=dtype))
    assert {name for name, _ in model.teacher.detector.named_children()} == {'backbone', 'neck', 'fuse'}
    with torch.no_grad():
        expected = detector.extract_feat(model.data_preprocessor(raw_batch(), True)['inputs'])
    assert close(maps(model), expected, .1 if dtype else 1e-5)


@MODELS.register_module()
class RenamedHead(FCOSHead):
    """With a predictor of another name, which mmdet takes for an old head's in files of no version."""

    def _init_predictor(self):
        super()._init_predictor()
        self.my_cls = self.conv_cls
        del self.conv_cls

    def forward_single(self, x, scale, stride):
        self.__dict__['conv_cls'] = self.my_cls
        return super().forward_single(x, scale, stride)


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_the_versions_of_a_checkpoints_modules_are_heeded(tmp_path, prefix):
    config = tiny('fcos', bbox_head=dict(type='RenamedHead', init_cfg=None))
    state = build(config).state_dict()
    renamed = OrderedDict((prefix + key, value) for key, value in state.items())
    renamed._metadata = OrderedDict(((prefix + key).removesuffix('.'), v) for key, v in state._metadata.items())
    torch.save(dict(state_dict=renamed), tmp_path / 'teacher.pth')
    model = distiller(config, dict(config=config, checkpoint=str(tmp_path / 'teacher.pth'), allow_random=False),
                      distill_losses=dict(kd=dict(type='KLLoss')))
    own = model.teacher.detector.bbox_head.my_cls.weight
    assert torch.equal(own, state['bbox_head.my_cls.weight']) and total(model, losses(model)).isfinite()


@pytest.mark.parametrize('channels', [1, 4])
def test_images_of_other_than_three_channels(channels):
    config = tiny(backbone=dict(in_channels=channels), data_preprocessor=dict(
        mean=[0.], std=[1.], bgr_to_rgb=False))
    model = distiller(config, dict(config=config))
    batch = demo_mm_inputs(2, [(channels, 64, 64)] * 2, num_classes=10)
    terms = model(**model.data_preprocessor(batch, True), mode='loss')
    assert terms['gkd_vertex'] > 0 and total(model, terms).isfinite()
    with pytest.raises(ValueError, match=f'student reads images of {channels} channels, the teacher of 3'):
        distiller(config)


def test_padding_that_the_teacher_may_not_take_is_said(monkeypatch):
    lines = []
    monkeypatch.setattr(teacher_module, 'print_log', lambda message, *args: lines.append(message))
    for divisor, said in ((1, True), (32, False), (64, False)):
        lines.clear()
        distiller(tiny(data_preprocessor=dict(pad_size_divisor=divisor)))
        assert any('padded to multiples of 32 pixels' in line for line in lines) == said


def test_synchronised_norms_are_folded(checkpoint):
    configs = tiny(backbone=merge(RESNET, dict(norm_cfg=dict(type='SyncBN')))), tiny()
    a, b = (distiller(teacher=dict(config=c, checkpoint=checkpoint, allow_random=False)) for c in configs)
    assert close(maps(a), maps(b), 1e-6)


# ---- layout and dtype

def channels_last(model):
    return [m.weight.is_contiguous(memory_format=torch.channels_last)
            for m in model.teacher.detector.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]


def test_runs_with_channels_last_and_gives_contiguous_maps(loaded):
    seen = []
    loaded.teacher.detector.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    feats = maps(loaded)
    assert all(channels_last(loaded)) and seen[0].is_contiguous(memory_format=torch.channels_last)
    assert all(x.is_contiguous() for x in feats)


@MODELS.register_module()
class MapsAsTheyLie(BaseModule):
    """Reads memory as though maps were contiguous, as mmcv's operators do, or refuses."""
    refuses = False

    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        if self.refuses:
            return (x.view(-1).view(x.shape),)
        return (x.as_strided(x.shape, torch.empty(x.shape, device='meta').stride()),)


@MODELS.register_module()
class MapsRefused(MapsAsTheyLie):
    refuses = True


@pytest.mark.parametrize('backbone', ['MapsAsTheyLie', 'MapsRefused'])
def test_not_with_channels_last_where_an_operator_does_not_heed_it(backbone):
    config = tiny('detr', neck=dict(in_channels=[8]))
    config['backbone'] = dict(type=backbone)
    model = distiller(config, dict(config=config))
    assert not any(channels_last(model)) and all(x.isfinite().all() for x in maps(model))


def test_not_with_channels_last_beside_operators_of_mmcv():
    config = tiny(backbone=merge(RESNET, dict(
        depth=50, dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, False, False, True))))
    config['neck']['in_channels'] = [4 * c for c in config['neck']['in_channels']]
    model = distiller(teacher=dict(config=config))
    assert not any(channels_last(model)) and all(x.isfinite().all() for x in maps(model))


@pytest.mark.parametrize('needs', [dict(gkd=dict(type='ChannelGraphLoss', num_eigenvectors=4)),
                                   dict(kd=dict(type='KLLoss'))], ids=['maps', 'head too'])
def test_in_bfloat16(checkpoint, needs):
    """Maps of the batch's dtype, a percent off; heads as they were; and the same losses, a percent off."""
    exact, rough = (distiller(distill_losses=needs, teacher=dict(
        checkpoint=checkpoint, allow_random=False, dtype=dtype)) for dtype in (None, 'bfloat16'))
    torch.manual_seed(1)
    one = losses(exact)
    torch.manual_seed(1)
    other = losses(rough)
    dtypes = {name: {p.dtype for p in part.parameters()} for name, part in rough.teacher.detector.named_children()}
    assert dtypes.pop('backbone') == dtypes.pop('neck') == {torch.bfloat16}
    assert set(dtypes) == ({'rpn_head', 'roi_head'} if 'kd' in needs else set())
    assert all(found == {torch.float32} for found in dtypes.values())
    a, b = maps(exact), maps(rough)
    assert {x.dtype for x in b} == {torch.float32} and close(b, a, .02) and not close(b, a, 1e-4)
    for key in (key for key in one if key.startswith(tuple(needs))):
        assert 0 < abs(float(one[key]) - float(other[key])) < .05 * float(one[key]), key


def test_bfloat16_is_no_matter_of_autocast(checkpoint):
    """Which would compute in its own dtype, of another range, with weights rounded to this one."""
    model = distiller(teacher=dict(checkpoint=checkpoint, allow_random=False, dtype='bfloat16'))
    alone = maps(model)
    with torch.autocast('cpu', torch.float16):
        inside = maps(model)
    assert all(torch.equal(a, b) for a, b in zip(inside, alone, strict=True))


def test_unknown_dtype():
    with pytest.raises(ValueError, match="dtype must be one of .*'bfloat16'.*got 'float16'"):
        distiller(teacher=dict(dtype='float16'))


# ---- checkpoints

def test_no_checkpoint_must_be_meant():
    with pytest.raises(ValueError, match='checkpoint=None .*allow_random=True'):
        build(distiller_config(teacher=dict(allow_random=False)))
    assert distiller().teacher.detector is not None


@pytest.mark.parametrize('argument', ['chekpoint', 'pretrained'])
def test_unknown_arguments(argument):
    with pytest.raises(TypeError, match=argument):
        build(distiller_config(teacher={argument: 'x.pth'}))


def test_its_weights_are_the_checkpoints(checkpoint, monkeypatch):
    monkeypatch.setattr(teacher_module, 'quick', lambda detector, *_: (detector, torch.contiguous_format))
    model = distiller(teacher=dict(checkpoint=checkpoint, allow_random=False))
    weights = torch.load(checkpoint)['state_dict']
    state = model.teacher.detector.state_dict()
    assert len(state) == sum(k.startswith(('backbone.', 'neck.')) for k in weights)
    assert all(torch.equal(v, weights[k]) for k, v in state.items())


def drop(*keys):
    return lambda w: {k: v for k, v in w.items() if not k.startswith(keys)}


def prefixed(prefix):
    return lambda w: {prefix + k: v for k, v in w.items()}


def deeper(w):
    return drop('backbone.layer1.1')(w) | {'backbone.layer1.9.conv1.weight': torch.ones(1)}


@pytest.mark.parametrize('change, complaint', [
    (drop('backbone.layer4.1.conv2'), r'1 missing \(backbone.layer4.1.conv2.weight\).*a part of the model'),
    (drop('neck.'), r'16 missing \(neck.lateral_convs.0.conv.weight; neck.*; neck.*; \.\.\.\)'),
    (lambda w: w | {'neck.more.weight': torch.ones(1)}, r'1 unexpected \(neck.more.weight\).*larger model'),
    (lambda w: w | {'neck.fpn_convs.0.conv.weight': torch.ones(24, 16, 3, 3)},
     r'1 mis-shaped \(neck.fpn_convs.0.conv.weight: \(24, 16, 3, 3\) in the file, \(16, 16, 3, 3\) .*archi'),
    (deeper, r'missing .*1 unexpected.*another architecture'),
    (prefixed('model.'), r'of no such model.*the first is .model.backbone.conv1.weight'),
    (drop('backbone', 'neck'), 'missing .*of no such model'),
])
def test_what_does_not_fit_is_an_error(checkpoint, tmp_path, change, complaint):
    path = str(tmp_path / 'changed.pth')
    torch.save(change(dict(torch.load(checkpoint)['state_dict'])), path)
    with pytest.raises(ValueError, match='changed.pth.* does not fit its config .*' + complaint):
        distiller(teacher=dict(checkpoint=path))


@pytest.mark.parametrize('change', [
    drop('rpn_head', 'roi_head'), lambda w: w | {'roi_head.more': torch.ones(1)},
    lambda w: {k: v for k, v in w.items() if not k.endswith('num_batches_tracked')}, prefixed('module.')],
    ids=['without heads', 'more heads', 'old norms', 'ddp'])
def test_what_does_not_matter_is_none(checkpoint, tmp_path, change):
    weights = dict(torch.load(checkpoint)['state_dict'])
    torch.save(change(weights), tmp_path / 'changed.pth')
    a, b = (distiller(teacher=dict(checkpoint=str(path))) for path in (checkpoint, tmp_path / 'changed.pth'))
    assert close(maps(a), maps(b), 0)


def test_other_width_says_so(checkpoint):
    with pytest.raises(ValueError, match='mis-shaped .*another architecture'):
        distiller(teacher=dict(config=tiny(**neck(24)), checkpoint=checkpoint))


def test_another_number_of_classes_says_so(tmp_path):
    weights = torch.nn.Linear(4, 3).state_dict(prefix='head.fc.') | torch.nn.Linear(2, 2).state_dict(prefix='neck.a.')
    detector = torch.nn.ModuleDict(dict(neck=torch.nn.ModuleDict(dict(a=torch.nn.Linear(2, 2))),
                                        head=torch.nn.ModuleDict(dict(fc=torch.nn.Linear(4, 10)))))
    with pytest.raises(ValueError, match='2 mis-shaped .*another number of classes than the config'):
        teacher_module._load_strictly(detector, weights, 'x.pth')


def test_failures_come_before_training():
    with pytest.raises(FileNotFoundError, match='no checkpoint .nowhere.pth'):
        distiller(teacher=dict(checkpoint='nowhere.pth'))
    with pytest.raises(FileNotFoundError, match='teacher: no config file .nowhere.py'):
        distiller(teacher=dict(config='nowhere.py'))


# ---- with the rest of MMEngine

def test_ema_shares_it_and_saves_the_student_alone(train):
    runner = train(distiller_config(tiny('retinanet'), dict(config=tiny('retinanet'))), 2,
                   custom_hooks=[dict(type='EMAHook', update_buffers=True)])
    ema = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook').ema_model
    assert ema.module.teacher is runner.model.teacher
    saved = torch.load(f'{runner.work_dir}/epoch_2.pth', weights_only=False)
    keys = build(tiny('retinanet')).state_dict().keys()
    assert saved['state_dict'].keys() == keys
    assert {k.removeprefix('module.') for k in saved['ema_state_dict']} - {'steps'} == keys
    optimised = saved['optimizer']['param_groups'][0]['params']
    assert len(optimised) == len(list(build(tiny('retinanet')).parameters()))


def test_ddp_does_not_see_it(loaded):
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        ddp = MMDistributedDataParallel(loaded)
        theirs = {id(t) for t in loaded.teacher.detector.state_dict(keep_vars=True).values()}
        assert theirs.isdisjoint(map(id, [*ddp._module_parameters, *ddp.modules_buffers]))
    finally:
        torch.distributed.destroy_process_group()
