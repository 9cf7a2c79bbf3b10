"""A memory of the latest instances."""
from __future__ import annotations

import torch
from torch import Tensor

from ..functional.precision import working_dtype
from .memory import Memory, gather_rows

__all__ = ['InstanceQueue']

EMPTY = -1
"""The class of an entry of a queue that is yet to come."""


class InstanceQueue(Memory):
    """The latest embeddings of whatever has a class, first in, first out. All processes hold the same queue.

    Args:
        spaces (int): S.
        dims (int): D.
        size (int): Entries that are kept.
    """

    def __init__(self, *, spaces: int, dims: int, size: int = 4096) -> None:
        super().__init__(spaces=spaces, dims=dims)
        self.size = size

    @torch.no_grad()
    def recall(self, labels: Tensor, fresh: Tensor, kept: int) -> tuple[Tensor, None]:
        """(N, Q) bool, the entries of a class other than each label.

        In training the embeddings of all processes, in the order of their ranks, are added first: what is in the
        batch serves at once.

        Args:
            labels (Tensor): (N,).
            fresh (Tensor): (S, N, D).
            kept (int): So many of them are added, from the first.
        """
        self._fit(fresh)
        labels = labels.to(fresh.device)
        if self.training:
            self._push(*gather_rows(labels[:kept], fresh[:, :kept].transpose(0, 1)))
        return (self.labels != labels.unsqueeze(-1)) & (self.labels != EMPTY), None

    def update(self, labels: Tensor, fresh: Tensor, kept: int) -> None:
        """Nothing: :meth:`recall` has done it."""

    def _push(self, labels: Tensor, rows: Tensor) -> None:
        place = torch.arange(self.count, self.count + len(labels), device=rows.device)[-self.size:] % self.size
        self.labels[place] = labels[-self.size:]
        self.keys[:, place] = rows[-self.size:].transpose(0, 1)
        self.count += len(labels)

    def _fit(self, like: Tensor) -> None:
        if self.keys is None:
            self.keys = like.new_zeros(self.spaces, self.size, self.dims, dtype=working_dtype(like))
            self.labels = torch.full((self.size,), EMPTY, device=like.device)
        super()._fit(like)

    def _misfit(self, keys: Tensor) -> str | None:
        if keys.shape[1] != self.size:
            return f'the checkpoint has {keys.shape[1]} entries, the config queue_size={self.size}'
        return super()._misfit(keys)
