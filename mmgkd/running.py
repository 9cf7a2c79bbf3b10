"""What a runner knows of a training, read in one way everywhere."""
from __future__ import annotations

from mmengine.dataset import InfiniteSampler
from mmengine.model import is_model_wrapper
from torch import nn

__all__ = ['epoch_length', 'trained_model']


def trained_model(runner) -> nn.Module:
    """The model, out of the wrapper of distributed training."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def epoch_length(runner) -> int:
    """The iterations in which all processes together see the training set once.

    MMEngine's ``InfiniteSampler``, of trainings by iterations, has the length of the whole set on each of them.
    """
    loader = runner.train_dataloader
    samplers = [loader.sampler, getattr(loader.batch_sampler, 'sampler', None)]
    shares = max([sampler.world_size for sampler in samplers if isinstance(sampler, InfiniteSampler)], default=1)
    return max(1, len(loader) // shares)
