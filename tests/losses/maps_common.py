"""Maps, masks and samples for the tests of losses that compare maps."""
import inspect

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

SHAPE = (2, 5, 4, 6)
STRIDE = 8
BATCH = (32, 48)  # pixels of SHAPE's maps
IMAGES = [(32, 40), (24, 32)]  # and of the images within: the others are padding
BOXES = [[(1., 2., 15., 9.), (9., 5., 39., 31.)], [(0., 0., 7.5, 22.)]]


def maps(shape=SHAPE, seed=0, dtype=torch.float64):
    """A student's and a teacher's map (N, C, H, W), alike to some degree and off-centre."""
    generator = torch.Generator().manual_seed(seed)
    teacher, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    scale = 0.5 + torch.rand(2, shape[1], 1, 1, generator=generator, dtype=torch.float64)
    teacher = scale[0] * teacher + scale[1] - 0.5
    return [(0.7 * teacher + 0.6 * noise).to(dtype), teacher.to(dtype)]


def mask(shape=SHAPE):
    """(N, H, W) bool, the cells of IMAGES on maps of SHAPE."""
    n, _, h, w = shape
    valid = torch.zeros(n, h, w, dtype=torch.bool)
    for i, (height, width) in enumerate(IMAGES[:n]):
        valid[i, :height // STRIDE, :width // STRIDE] = True
    return valid


def samples(n=2, padded=True, boxes=BOXES, wrap=torch.tensor):
    """What mmdet's data preprocessor leaves."""
    found = []
    for i in range(n):
        sample = DetDataSample(metainfo=dict(img_shape=IMAGES[i] if padded else BATCH, batch_input_shape=BATCH))
        given = torch.tensor(boxes[i]).reshape(-1, 4)
        sample.gt_instances = InstanceData(bboxes=wrap(given) if wrap is not torch.tensor else given,
                                           labels=torch.zeros(len(given)).long())
        found.append(sample)
    return found


def cells(feat, valid=None):
    """For each image (C, H, W) its cells that count, as rows (P, C) of a numpy array."""
    feat = feat.detach().double().numpy()
    return [np.array([image[:, y, x] for y in range(image.shape[1]) for x in range(image.shape[2])
                      if valid is None or valid[i, y, x]]) for i, image in enumerate(feat)]


def gradient(value, *inputs):
    return torch.autograd.grad(value, inputs, retain_graph=True)


def options(function, *, beside=()):
    """The keyword-only parameters of a function or class, but for weights and those named."""
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY
            and not p.name.endswith('_weight') and p.name not in beside}


def kept(function, *inputs):
    """Bytes that autograd keeps of what a function makes, beside its inputs."""
    found = {}

    def keep(x):
        found[x.data_ptr()] = x.numel() * x.element_size()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        value = function()
    assert found
    return value, sum(size for pointer, size in found.items() if pointer not in {x.data_ptr() for x in inputs})
