"""A memory with an entry for each sample of a data set."""
from __future__ import annotations

import logging

import numpy as np
import torch
from mmengine.dist import broadcast, get_rank
from mmengine.logging import print_log
from torch import Tensor

from ..functional import unit_rows
from .memory import Memory, gather_rows

__all__ = ['MemoryBank', 'dataset_labels']

RANDOM = 2 ** 25
"""Random numbers held at once while negatives are drawn."""


class MemoryBank(Memory):
    r"""One entry per sample of a data set, a running mean of its embeddings.

    It is the memory of Wu et al. (CVPR 2018) as HKD (Zhou et al., ICCV 2021) has it: entries start uniform in
    :math:`(-s, s)`, :math:`s = (D / 3)^{-1/2}`, of expected length one, and an update is
    :math:`m \leftarrow n_2(\mu m + (1 - \mu) e)`. All processes hold the same bank.

    Args:
        spaces (int): S.
        dims (int): D.
        num_negatives (int): How many are drawn for each sample.
        momentum (float): :math:`\mu`.
    """

    def __init__(self, *, spaces: int, dims: int, num_negatives: int = 16384, momentum: float = 0.9) -> None:
        super().__init__(spaces=spaces, dims=dims)
        self.num_negatives, self.momentum = num_negatives, momentum
        self.fewest = 0
        """Samples of another class that those of the most frequent class have."""

    def fill(self, labels: Tensor) -> None:
        """Make an entry for each of the samples, unless a checkpoint brought those very ones.

        Args:
            labels (Tensor): (n,), the class of each sample.

        Raises:
            ValueError: All samples are of one class, or there are none.
        """
        if len(labels.unique()) < 2:
            raise ValueError('negatives are samples of another class, and this data set of '
                             f'{len(labels)} samples has {len(labels.unique())} classes')
        if self.keys is not None:
            if torch.equal(self.labels.cpu(), labels):
                return
            print_log(f'the memory of {self.keys.shape[1]} samples is of another data set: a new one of {len(labels)} '
                      'samples starts from random entries', 'current', logging.WARNING)
        seed = torch.tensor(torch.initial_seed() % 2 ** 31)
        broadcast(seed)
        random = torch.rand(self.spaces, len(labels), self.dims, generator=torch.Generator().manual_seed(int(seed)))
        self.keys = (2 * random - 1) * (self.dims / 3) ** -.5
        self.labels, self.count = labels, 0
        self._count_fewest()

    def recall(self, index: Tensor, fresh: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        """The negatives of each sample, see :meth:`draw`, and its entries as they are, (S, N, D).

        Args:
            index (Tensor): (N,), of samples of the data set.
            fresh (Tensor): (S, N, D), for its device and precision.
            kept (int): Not used.

        Raises:
            RuntimeError: The bank has not been filled.
            IndexError: There is no such sample.
        """
        if self.keys is None:
            raise RuntimeError("the memory bank is empty: HolisticGraphLoss with memory='bank' reads the data set "
                               "before training, on dict(type='PrepareLossesHook') in custom_hooks")
        entries = self.keys.shape[1]
        if wrong := [i for i in index.tolist() if not 0 <= i < entries]:
            raise IndexError(f'sample_idx must be from 0 to {entries - 1}, the samples of the data set that was read '
                             f'before training, got {wrong}')
        self._fit(fresh)
        return self.draw(index), self.keys[:, index.to(fresh.device)]

    def draw(self, index: Tensor) -> Tensor:
        """How many times each entry is a negative of each sample.

        Negatives are drawn uniformly among the samples of a different class, without replacement, or with it where
        there are fewer of them than are to be drawn. The draws depend on torch's seed, the process and the number of
        draws before, so a resumed training draws what an uninterrupted one would.

        Args:
            index (Tensor): (N,).

        Returns:
            Tensor: (N, n), bool without replacement, else float.
        """
        device, most = self.keys.device, self.keys.shape[1]
        state = np.random.SeedSequence((torch.initial_seed(), get_rank(), self.count)).generate_state(1, np.uint64)
        generator = torch.Generator(device).manual_seed(int(state[0] >> np.uint64(1)))
        self.count += self.training
        label = self.labels[index.to(device)].unsqueeze(-1)  # (N, 1)
        drawn = []
        for part in label.split(max(RANDOM // most, 1)):
            other = self.labels != part  # (R, n)
            lot = torch.rand(other.shape, generator=generator, device=device).masked_fill_(~other, -1)
            taken = lot.topk(min(self.num_negatives, most), sorted=False).indices  # (R, M)
            chosen = torch.zeros_like(other).scatter_(1, taken, True) & other
            if self.fewest < self.num_negatives:
                chosen = self._with_replacement(chosen, other, lot, generator)
            drawn.append(chosen)
        return torch.cat(drawn) if drawn else torch.zeros(0, most, dtype=torch.bool, device=device)

    def _with_replacement(self, chosen: Tensor, other: Tensor, lot: Tensor, generator: torch.Generator) -> Tensor:
        pool = other.sum(-1, keepdim=True)  # (R, 1)
        place = torch.rand(len(lot), self.num_negatives, generator=generator, device=lot.device, dtype=torch.float64)
        taken = lot.argsort(descending=True).gather(1, (place * pool).long())  # (R, M), the first are the others
        counts = torch.zeros_like(lot).scatter_add_(1, taken, torch.ones_like(taken, dtype=lot.dtype))
        return torch.where(pool < self.num_negatives, counts, chosen.to(lot.dtype))

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        if self.keys is not None:
            self._count_fewest()

    def _count_fewest(self) -> None:
        self.fewest = len(self.labels) - int(self.labels.bincount().max())

    @torch.no_grad()
    def update(self, index: Tensor, fresh: Tensor, kept: int) -> None:
        """Move the entries of all processes' samples, in training; of a sample that comes twice, the first counts.

        Args:
            index (Tensor): (N,).
            fresh (Tensor): (S, N, D), embeddings of length one.
            kept (int): So many of them count, from the first.
        """
        if not self.training:
            return
        index, rows = gather_rows(index[:kept].to(fresh.device), fresh[:, :kept].transpose(0, 1))
        if len(index):
            # repeats write one value, so that the order of writing does not matter
            rows = rows[(index.unsqueeze(-1) == index).int().argmax(-1)]
            self.keys[:, index] = unit_rows(self.momentum * self.keys[:, index]
                                            + (1 - self.momentum) * rows.transpose(0, 1))


def dataset_labels(dataset) -> Tensor:
    """(n,) the class of each sample, by its ``sample_idx``.

    Args:
        dataset: Of images with one class each, bare or repeated (``RepeatDataset``, ``ClassBalancedDataset``).

    Raises:
        ValueError: Its samples have no class, or more than one, or are numbered anew in each part.
    """
    while hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    if len(parts := getattr(dataset, 'datasets', ())) == 1:
        return dataset_labels(parts[0])
    if parts:
        raise ValueError(f'{type(dataset).__name__} numbers the samples of each of its {len(parts)} data sets from 0, '
                         'and a memory bank needs one number per sample: join the annotation files, or take '
                         "memory='queue'")
    if hasattr(dataset, 'get_gt_labels'):
        labels = dataset.get_gt_labels()
    else:
        infos = (dataset.get_data_info(i) for i in range(len(dataset)))
        labels = [info.get('gt_label') for info in infos]
    try:
        return torch.as_tensor(np.asarray(labels, dtype=np.int64).reshape(len(dataset)))
    except (TypeError, ValueError) as error:
        raise ValueError(f'a memory bank needs one gt_label per sample, which {type(dataset).__name__} does not give '
                         f"({error}); for detectors take memory='queue'") from error
