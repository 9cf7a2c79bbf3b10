"""The learned part of MHGD: attention heads, and the estimator that trains them on a teacher alone."""
from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
from mmengine.dist import all_reduce_params
from mmengine.logging import print_log
from torch import Tensor, nn

from ..functional import attend, attention_logits, float32_island, keep_heads, vector_distance

__all__ = ['NORMS', 'AttentionEstimator', 'train_estimator']

NORMS = {'batch': nn.BatchNorm1d, 'layer': nn.LayerNorm}


class AttentionPair(nn.Module):
    """From the nodes at one depth, the front, to the same nodes at the next, the back.

    Args:
        front (int): Channels at the front.
        back (int): Channels at the back.
        num_heads (int): Attention heads, each as wide as the mean of both channels.
        norm (str): A key of ``NORMS``.
    """

    def __init__(self, front: int, back: int, num_heads: int, norm: str) -> None:
        super().__init__()
        self.num_heads = num_heads
        width = (front + back) // 2
        heads, norm = num_heads * width, NORMS[norm]
        self.query = nn.Sequential(nn.Linear(back, heads, bias=False), norm(heads))
        self.key = nn.Sequential(nn.Linear(front, heads, bias=False), norm(heads))
        self.value = nn.Sequential(nn.Linear(front, width, bias=False), norm(width), nn.ReLU())
        self.predict = nn.Linear(heads, back)
        for layer in (self.query[0], self.key[0], self.value[0], self.predict):
            nn.init.kaiming_normal_(layer.weight, mode='fan_out')
        nn.init.zeros_(self.predict.bias)

    def logits(self, front: Tensor, back: Tensor) -> Tensor:
        """(A, V, V) attention of the back's nodes to the front's, from (V, C_front) and (V, C_back)."""
        return attention_logits(self.query(back), self.key(front), self.num_heads)

    def forward(self, front: Tensor, back: Tensor) -> Tensor:
        """How far from the back's nodes the estimate is that the front's give, with half of the heads dropped."""
        keep = keep_heads(self.num_heads, len(front), device=front.device)
        estimate = self.predict(attend(self.logits(front, back), self.value(front), keep))  # (V, C_back)
        return vector_distance(estimate, back)


class AttentionEstimator(nn.Module):
    """A pair of attention for each two consecutive depths, frozen but inside :meth:`learning`.

    Args:
        channels (Sequence[int]): Of the node vectors at each depth.
        num_heads (int): Of each pair.
        norm (str): ``batch``, as published, or ``layer``, which does not depend on how many nodes there are.
    """

    def __init__(self, channels: Sequence[int], *, num_heads: int = 8, norm: str = 'batch') -> None:
        super().__init__()
        self.pairs = nn.ModuleList(AttentionPair(front, back, num_heads, norm)
                                   for front, back in zip(channels, channels[1:], strict=False))
        self.register_buffer('trained', torch.tensor(0))
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> AttentionEstimator:
        """Stays in eval mode: the statistics are the teacher's."""
        return super().train(False)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Parameters and statistics change inside, and are frozen afterwards."""
        self.requires_grad_(True)
        super().train()
        try:
            yield
        finally:
            self.requires_grad_(False).eval()
            self.zero_grad()  # or the student's optimiser would make use of what is left

    def logits(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """(A, V, V) per pair, from (V, C) per depth."""
        vectors = self._cast(vectors)
        with float32_island(vectors[0]):
            return [pair.logits(*ends) for pair, *ends in zip(self.pairs, vectors[:-1], vectors[1:], strict=True)]

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """The sum over pairs of how far the estimates are from (V, C) per depth; 0 of fewer than two nodes."""
        if len(vectors[0]) < 2:  # no statistics of a batch, and nothing to attend to
            return sum((p * 0).sum() for p in self.parameters())
        vectors = self._cast(vectors)
        with float32_island(vectors[0]):
            return sum(pair(*ends) for pair, *ends in zip(self.pairs, vectors[:-1], vectors[1:], strict=True))

    def _cast(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        return [x.to(self.pairs[0].predict.weight) for x in vectors]


def train_estimator(estimator: AttentionEstimator, batches: Iterable[Sequence[Tensor]], iterations: int, *,
                    lr: float = 0.1) -> None:
    """Stochastic gradient descent with Nesterov's momentum of 0.9, as published.

    So is the penalty, 5e-4 times the sum of squared weights: by its gradient, a weight decay of 1e-3.

    Gradients are averaged over processes, and so are, in the end, the statistics of batch norms: the estimator stays
    the same in all of them. Global random states are left as they were.

    Args:
        estimator (AttentionEstimator): Trained in place, and frozen afterwards.
        batches (Iterable[Sequence[Tensor]]): (V, C) per depth, of a teacher; enough of them.
        iterations (int): How many are taken.
        lr (float): Constant.

    Raises:
        ValueError: The estimator has diverged.
    """
    optimizer = torch.optim.SGD(estimator.parameters(), lr=lr, momentum=.9, nesterov=True, weight_decay=1e-3)
    interval = max(1, min(50, iterations // 10))
    start, seen, loss, nodes = time.monotonic(), 0, 0., 0
    with estimator.learning(), _random_states_kept():
        for done, vectors in zip(range(1, iterations + 1), batches, strict=False):
            optimizer.zero_grad()
            value = estimator(vectors)
            value.backward()
            all_reduce_params([p.grad for p in estimator.parameters()], op='mean')
            optimizer.step()
            seen, loss, nodes = seen + 1, loss + value.detach(), nodes + len(vectors[0])
            if done % interval == 0 or done == iterations:
                left = timedelta(seconds=round((time.monotonic() - start) / done * (iterations - done)))
                print_log(f'attention estimator [{done}/{iterations}]  loss: {loss.item() / seen:.4f}  '
                          f'nodes: {nodes / seen:.1f}  eta: {left}', 'current')
                seen, loss, nodes = 0, 0., 0
    all_reduce_params([b for b in estimator.buffers() if b.is_floating_point()], op='mean')
    if not all(p.isfinite().all() for p in estimator.parameters()):
        raise ValueError(f'the attention estimator has diverged with estimator_lr={lr}: try a smaller one')
    estimator.trained.fill_(1)


@contextmanager
def _random_states_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
