"""Embeddings that outlive an iteration: what contrast takes its negatives from."""
from __future__ import annotations

import torch
from mmengine.dist import all_gather, get_world_size
from torch import Tensor, nn

from ..functional.precision import working_dtype

__all__ = ['Memory', 'gather_rows']


class Memory(nn.Module):
    """Embeddings (S, n, D) in S spaces, such as the student's and the teacher's, and the class (n,) of each entry.

    They are saved and loaded under this module's keys, yet are neither parameters nor buffers: a bank's size is
    known only when there is a data set, and averages of a model (``EMAHook``) are to leave them alone.

    Args:
        spaces (int): S.
        dims (int): D.
    """

    NAMES = ('keys', 'labels', 'count')

    def __init__(self, *, spaces: int, dims: int) -> None:
        super().__init__()
        self.spaces, self.dims = spaces, dims
        self.keys: Tensor | None = None
        self.labels: Tensor | None = None
        self.count = 0
        """Entries pushed so far, or draws made."""

    def extra_repr(self) -> str:
        """For ``print``."""
        return f'spaces={self.spaces}, entries={0 if self.keys is None else self.keys.shape[1]}, dims={self.dims}'

    def _fit(self, like: Tensor) -> None:
        """Follow the embeddings to their device and precision."""
        self.keys = self.keys.to(like.device, working_dtype(like))
        self.labels = self.labels.to(like.device)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self.keys is not None:
            destination.update({prefix + 'keys': self.keys, prefix + 'labels': self.labels,
                                prefix + 'count': torch.tensor(self.count)})

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
        found = {name: state_dict[prefix + name] for name in self.NAMES if prefix + name in state_dict}
        if not found:
            return  # a checkpoint from before the first entry
        missing.extend(prefix + name for name in self.NAMES if name not in found)
        if len(found) == len(self.NAMES):
            if wrong := self._misfit(found['keys']):
                errors.append(f'size mismatch for {prefix}keys: {wrong}')
                return
            self.keys, self.labels = found['keys'].clone(), found['labels'].clone()
            self.count = int(found['count'])

    def _misfit(self, keys: Tensor) -> str | None:
        spaces, _, dims = keys.shape
        if (spaces, dims) != (self.spaces, self.dims):
            return f'the checkpoint has {spaces} spaces of {dims} dims, the config {self.spaces} of {self.dims}'
        return None


def gather_rows(*tensors: Tensor) -> list[Tensor]:
    """The rows of all processes in the order of their ranks, without gradient.

    Every process has to call it; numbers of rows may differ, and may be 0.

    Args:
        tensors (Tensor): (N, ...) each.
    """
    if get_world_size() == 1:
        return list(tensors)
    first = tensors[0]
    counts = [int(n) for n in all_gather(torch.tensor(len(first), device=first.device))]
    gathered = []
    for x in tensors:
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[:len(x)] = x.detach()
        parts = all_gather(padded) if max(counts) else []
        gathered.append(torch.cat([padded[:0], *(part[:n] for part, n in zip(parts, counts, strict=False))]))
    return gathered
