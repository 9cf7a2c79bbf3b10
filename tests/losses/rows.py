"""What the tests of losses on rows of logits share."""
import inspect
import math

import torch

LAYOUTS = {
    'transposed': lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    'every second row': lambda x: torch.stack([x, 9 + x], 1).flatten(0, 1)[::2],
    'inside a wider row': lambda x: torch.nn.functional.pad(x, (1, 2), value=9)[..., 1:-2],
}


def logits(*shape, seed=0, scale=2.):
    """A student's and a teacher's, in float64."""
    g = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(*shape, generator=g, dtype=torch.float64) for _ in range(2)]


def softmax(row):
    e = [math.exp(x - max(row)) for x in row]
    return [x / sum(e) for x in e]


def kl(p, q):
    """Of the second from the first, in nats."""
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def keyword_options(function):
    """Name to default of each keyword-only argument."""
    return {name: p.default for name, p in inspect.signature(function).parameters.items()
            if p.kind is inspect.Parameter.KEYWORD_ONLY}
