"""How often a classifier is right."""
from __future__ import annotations

from collections.abc import Sequence

from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from torch import Tensor

__all__ = ['Accuracy']


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Top-k accuracy in percent: how often the right class is among the k of highest score.

    Of equal scores the class of lower index counts as higher, as in ``argmax``. An image with a score that is not a
    number is wrong. Where k is not below the number of classes, every other image is right.

    Args:
        topk (Sequence[int]): The values of k; the results are ``accuracy/top1`` and so on.
        collect_device (str): ``cpu`` or ``gpu``, as MMEngine has it.
        prefix (str, optional): In place of ``accuracy``.

    Raises:
        ValueError: A k is below 1.
    """

    default_prefix = 'accuracy'

    def __init__(self, *, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu', prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if not topk or min(topk) < 1:
            raise ValueError(f'Accuracy: topk must be numbers of at least 1, got {topk}')
        self.topk = tuple(topk)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Note the rank of each image's class."""
        self.results.extend(_rank(sample['pred_score'], int(sample['gt_label'])) for sample in data_samples)

    def compute_metrics(self, results: list[int | None]) -> dict[str, float]:
        """Percentages over all images.

        Raises:
            ValueError: There is none.
        """
        if not results:
            raise ValueError('Accuracy: the data set is empty, there is nothing to be right about')
        return {f'top{k}': 100 * sum(rank is not None and rank < k for rank in results) / len(results)
                for k in self.topk}


def _rank(scores: Tensor, label: int) -> int | None:
    """How many classes are above the right one; None where a score (K,) is no number."""
    if scores.isnan().any():
        return None
    return int((scores > scores[label]).sum() + (scores[:label] == scores[label]).sum())
