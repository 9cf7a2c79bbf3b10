"""What is known of an image of one class."""
from __future__ import annotations

from mmengine.structures import BaseDataElement

__all__ = ['ClsDataSample']


class ClsDataSample(BaseDataElement):
    """``gt_label`` (1,), and once predicted ``pred_label`` (1,) and ``pred_score`` (K,), of K classes that sum to 1.

    The names are mmpretrain's, so that metrics and losses read either's samples. ``metainfo`` holds ``sample_idx``,
    the place of the image in its data set, and ``img_shape``, its height and width in pixels.
    """
