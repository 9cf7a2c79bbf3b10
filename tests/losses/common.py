"""What the tests of several losses share."""
import inspect

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

LAYOUTS = {
    'channels_last': lambda x: x.contiguous(memory_format=torch.channels_last),
    'transposed': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'every second channel': lambda x: torch.stack([x, 9 + x], 2).flatten(1, 2)[:, ::2],
    'inside a larger map': lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1), value=9)[..., 3:-1, 1:-2],
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def keyword_options(function):
    """Name to default of each keyword-only argument."""
    return {name: p.default for name, p in inspect.signature(function).parameters.items()
            if p.kind is inspect.Parameter.KEYWORD_ONLY}


def feature_maps(channels, sizes=((16, 24), (8, 12)), images=2, seed=0, dtype=torch.float64):
    """(N, C, H, W) per level; of the sizes by default, those of strides 4 and 8 in a batch of 64 x 96 pixels."""
    return [randn(images, channels, *size, seed=seed + i, dtype=dtype) for i, size in enumerate(sizes)]


def data_samples(*boxes, batch=(64, 96), sizes=None, labels=None):
    """One sample per image, with (K, 4) boxes and (K,) labels."""
    samples = []
    for i, box in enumerate(boxes):
        sample = DetDataSample(metainfo=dict(img_shape=sizes[i] if sizes else batch, batch_input_shape=batch))
        sample.gt_instances = InstanceData(
            bboxes=box, labels=labels[i] if labels else torch.zeros(len(box), dtype=torch.long))
        samples.append(sample)
    return samples


def boxes(count, seed=0, largest=60):
    """(K, 4) in pixels."""
    g = generator(seed)
    corner = torch.rand(count, 2, generator=g) * 30
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=g) * (largest - 2)], 1)
