"""The one place that decides the precision of graph mathematics."""
from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

__all__ = ['float32_island', 'working_dtype']


def float32_island(like: Tensor) -> AbstractContextManager:
    """A context in which autocast leaves matrix products alone.

    Autocast casts even float32 matrix products down to half precision, where a Gram matrix loses the
    differences that a graph consists of, and ``eigh`` has no half kernel at all.

    Args:
        like (Tensor): Any tensor on the device in question.
    """
    return torch.autocast(device_type=like.device.type, enabled=False)


def working_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
