"""What the classification data sets have in common: images in memory, each of one class."""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from mmengine.dataset import BaseDataset

__all__ = ['LabelledImages']


class LabelledImages(BaseDataset):
    """Small images that are read as a whole when the data set is, and given to the pipeline as ``img``.

    Args:
        split (str): ``train`` or ``test``.
        data_root (str): The folder of its files, if it has any.
        pipeline (Sequence): Transforms.
        metainfo (dict, optional): In place of what the class says of itself.
        indices (int | Sequence[int], optional): To use some of the images alone.
        test_mode (bool): An image that a transform drops is then an error, and not replaced by another.
        serialize_data (bool): Hold the images in one piece of memory, which worker processes share.
        lazy_init (bool): Read nothing yet.

    Raises:
        ValueError: There is no such split.
    """

    def __init__(self, *, split: str = 'train', data_root: str = '', pipeline: Sequence = (),
                 metainfo: dict | None = None, indices: int | Sequence[int] | None = None, test_mode: bool = False,
                 serialize_data: bool = True, lazy_init: bool = False) -> None:
        if split not in ('train', 'test'):
            raise ValueError(f"{type(self).__name__}: split must be 'train' or 'test', got {split!r}")
        self.split = split
        super().__init__(metainfo=metainfo, data_root=data_root, pipeline=list(pipeline), indices=indices,
                         test_mode=test_mode, serialize_data=serialize_data, lazy_init=lazy_init)

    def check_files(self) -> None:
        """See that what :meth:`load_images` needs is there, at no cost.

        Raises:
            FileNotFoundError: It is not; the text says what to do.
        """

    @abstractmethod
    def load_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Images (n, H, W, 3), RGB, uint8, and the class of each (n,)."""

    def load_data_list(self) -> list[dict]:
        """An image and its class per entry."""
        images, labels = self.load_images()
        return [dict(img=image, gt_label=int(label)) for image, label in zip(images, labels, strict=True)]

    def get_cat_ids(self, idx: int) -> list[int]:
        """The class of an image, in a list."""
        return [self.get_data_info(idx)['gt_label']]

    def get_gt_labels(self) -> np.ndarray:
        """The class of every image, (n,)."""
        return np.array([self.get_data_info(i)['gt_label'] for i in range(len(self))])
