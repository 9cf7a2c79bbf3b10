"""The backbones are those of the published benchmarks: their sizes, their maps, what they refuse."""
import pytest
import torch
from mmcv.cnn.utils import fuse_conv_bn
from mmdet.registry import MODELS
from torch import nn

NETS = {  # name: config, weights with a classifier of 100 classes as the benchmarks publish them, maps for 32 pixels
    'resnet8x4': (dict(type='CifarResNet', depth=8, width=4), 1233540, '64x32 128x16 256x8'),
    'resnet32x4': (dict(type='CifarResNet', depth=32, width=4), 7433860, '64x32 128x16 256x8'),
    'resnet20': (dict(type='CifarResNet', depth=20), 278324, '16x32 32x16 64x8'),
    'resnet56': (dict(type='CifarResNet', depth=56), 861620, '16x32 32x16 64x8'),
    'resnet110': (dict(type='CifarResNet', depth=110), 1736564, '16x32 32x16 64x8'),
    'wrn-16-2': (dict(type='WideResNet', depth=16, width=2), 703284, '32x32 64x16 128x8'),
    'wrn-40-1': (dict(type='WideResNet', depth=40), 569780, '16x32 32x16 64x8'),
    'wrn-40-2': (dict(type='WideResNet', depth=40, width=2), 2255156, '32x32 64x16 128x8'),
    'vgg8': (dict(type='CifarVGG', depth=8), 3965028, '64x32 128x16 256x8 512x4 512x4'),
    'vgg13': (dict(type='CifarVGG', depth=13), 9462180, '64x32 128x16 256x8 512x4 512x4'),
    'mobilenetv2': (dict(type='CifarMobileNetV2', width=0.5), 812836, '12x16 16x8 48x4 160x2 1280x2'),
    'shufflenetv2': (dict(type='CifarShuffleNetV2', size=1), 1355528, '116x16 232x8 464x4 1024x4'),
}
SMALL = {
    'resnet': dict(type='CifarResNet', depth=8, width=0.5), 'wrn': dict(type='WideResNet', depth=10),
    'vgg': dict(type='CifarVGG', depth=8), 'mobilenet': dict(type='CifarMobileNetV2', width=0.25),
    'shufflenet': dict(type='CifarShuffleNetV2', size=0.5)}


def build(config, seed=0):
    torch.manual_seed(seed)
    net = MODELS.build(dict(config))
    net.init_weights()
    return net


@pytest.mark.parametrize('name', NETS)
def test_weights_and_maps_are_the_published_ones(name):
    config, weights, maps = NETS[name]
    with torch.device('meta'):
        net = MODELS.build(dict(config)).eval()
        head = MODELS.build(dict(type='LinearHead', in_channels=net.out_channels[-1], num_classes=100))
        shapes = [tuple(x.shape) for x in net(torch.zeros(2, 3, 32, 32))]
    assert sum(p.numel() for module in (net, head) for p in module.parameters()) == weights
    want = [tuple(map(int, item.split('x'))) for item in maps.split()]
    assert shapes == [(2, channels, side, side) for channels, side in want]
    assert net.out_channels == tuple(channels for channels, _ in want)


@pytest.mark.parametrize('name', SMALL)
def test_chosen_stages_are_those_of_all(name):
    net, image = build(SMALL[name]).eval(), torch.randn(1, 3, 32, 32)
    maps = net(image)
    some = MODELS.build(dict(SMALL[name], out_indices=(0, 2))).eval()
    some.load_state_dict(net.state_dict())
    assert some.out_channels == (net.out_channels[0], net.out_channels[2])
    for got, want in zip(some(image), (maps[0], maps[2]), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('name', SMALL)
def test_maps_have_passed_a_relu_but_for_linear_bottlenecks(name):
    maps = build(SMALL[name])(torch.randn(4, 3, 32, 32))
    linear = 4 if name == 'mobilenet' else 0
    assert all((x < 0).any() for x in maps[:linear])
    assert all((x >= 0).all() and (x > 0).any() for x in maps[linear:])


@pytest.mark.parametrize('name', SMALL)
def test_every_weight_is_trained_at_other_sizes_too(name):
    net = build(SMALL[name])
    maps = net(torch.randn(2, 3, 20, 24))
    maps[-1].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_weights_start_as_he_says():
    net = build(dict(type='CifarResNet', depth=8, width=4))
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            fan_out = m.out_channels * m.kernel_size[0] ** 2
            assert m.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        elif isinstance(m, nn.BatchNorm2d):
            assert (m.weight == 1).all() and (m.bias == 0).all()


def test_wide_resnet_is_the_published_function():
    """The same weights in the published order: each stage's first norm within the stage itself."""
    net = build(dict(type='WideResNet', depth=16, width=2))
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, .5, 2)
            nn.init.normal_(m.bias)
            m.running_mean.normal_()
            m.running_var.uniform_(.5, 2)
    net.eval()
    image = torch.randn(2, 3, 32, 32)
    x = net.stem(image)
    entry = [net.stages[0][0].norm1[0], net.stages[0][2], net.stages[1][2]]
    with torch.no_grad():
        for stage, norm in zip(net.stages, entry, strict=True):
            x = torch.relu(norm(x))  # the stage's first block begins with its norm, before both of its branches
            first, second = stage[0], stage[1]
            x = first.conv2(torch.relu(first.norm2(first.conv1(x)))) + first.shortcut(x)
            inner = torch.relu(second.norm2(second.conv1(torch.relu(second.norm1[0](x)))))
            x = second.conv2(inner) + x
        x = torch.relu(net.stages[2][2](x))
    torch.testing.assert_close(net(image)[-1], x)


def test_dropout_of_wide_resnets_rests_in_evaluation():
    net, image = build(dict(type='WideResNet', depth=10, dropout=0.5)), torch.randn(2, 3, 16, 16)
    assert not torch.equal(net(image)[-1], net(image)[-1])
    net.eval()
    assert torch.equal(net(image)[-1], net(image)[-1])


def test_shuffling_mixes_the_halves():
    from mmgkd.classification.backbones.shufflenet import _shuffle
    x = torch.arange(6.).view(1, 6, 1, 1)
    assert _shuffle(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize('name', SMALL)
def test_a_frozen_teacher_can_be_folded(name):
    """Convolutions stand right before their norms wherever that is how they run."""
    net, image = build(SMALL[name]), torch.randn(4, 3, 32, 32)
    for _ in range(3):
        net(image)  # moves the statistics of the norms
    net.eval()
    want = net(image)
    for got, x in zip(fuse_conv_bn(net)(image), want, strict=True):
        torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(('config', 'said'), [
    (dict(type='CifarResNet', depth=18), r'depth must be 6n \+ 2 \(8, 14, 20, ...\), got 18'),
    (dict(type='CifarResNet', depth=2), r'depth must be 6n \+ 2'),
    (dict(type='CifarResNet', depth=8, width=0.01), 'width=0.01 leaves no channel'),
    (dict(type='WideResNet', depth=20), r'depth must be 6n \+ 4 \(10, 16, 22, ...\), got 20'),
    (dict(type='WideResNet', depth=10, width=0), 'width=0 leaves no channel'),
    (dict(type='CifarVGG', depth=12), r'depth must be one of \[8, 11, 13, 16, 19\], got 12'),
    (dict(type='CifarMobileNetV2', width=0.01), 'got width=0.01, expansion=6'),
    (dict(type='CifarMobileNetV2', expansion=0), 'got width=0.5, expansion=0'),
    (dict(type='CifarShuffleNetV2', size=3), r'size must be one of \[0.5, 1, 1.5, 2\], got 3'),
    (dict(type='CifarResNet', depth=8, out_indices=(0, 3)), r'stages from 0 to 2 in rising order, got \(0, 3\)'),
    (dict(type='CifarResNet', depth=8, out_indices=(1, 0)), 'in rising order'),
    (dict(type='CifarResNet', depth=8, out_indices=()), 'in rising order'),
])
def test_mistakes_are_named(config, said):
    with pytest.raises(ValueError, match=said):
        MODELS.build(config)
