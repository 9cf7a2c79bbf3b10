"""Steps of a classifier's data pipeline that MMCV and MMEngine lack."""
from __future__ import annotations

from collections.abc import Sequence

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.registry import TRANSFORMS
from mmengine.registry import FUNCTIONS

from .samples import ClsDataSample

__all__ = ['PackClsInputs', 'PadRandomCrop', 'stack_images']


@TRANSFORMS.register_module()
class PadRandomCrop(BaseTransform):
    """Pad an image on all four sides, then cut its former size out of it at a random place.

    Args:
        padding (int): Pixels on each side.
        pad_mode (str): ``constant``, black, or ``reflect``, the image mirrored about its outermost pixels.

    Raises:
        ValueError: ``padding`` is negative, or ``pad_mode`` unknown.
    """

    def __init__(self, *, padding: int = 4, pad_mode: str = 'constant') -> None:
        if padding < 0 or pad_mode not in ('constant', 'reflect'):
            raise ValueError("PadRandomCrop: padding must be at least 0 and pad_mode 'constant' or 'reflect', got "
                             f'{padding} and {pad_mode!r}')
        self.padding, self.pad_mode = padding, pad_mode

    def _offset(self) -> tuple[int, int]:
        return tuple(int(x) for x in np.random.randint(0, 2 * self.padding + 1, 2))

    def transform(self, results: dict) -> dict:
        """Change ``img`` (H, W, C)."""
        img, pad = results['img'], self.padding
        height, width = img.shape[:2]
        top, left = self._offset()
        padded = mmcv.impad(img, padding=pad, padding_mode=self.pad_mode)
        results['img'] = padded[top:top + height, left:left + width]
        return results

    def __repr__(self) -> str:
        return f'PadRandomCrop(padding={self.padding}, pad_mode={self.pad_mode!r})'


@TRANSFORMS.register_module()
class PackClsInputs(BaseTransform):
    """Make of ``img`` (H, W, C) the tensor ``inputs`` (C, H, W), and of ``gt_label`` a data sample.

    Args:
        meta_keys (Sequence[str]): What else of the results goes into the sample's metainfo, where it is there.
    """

    def __init__(self, *, meta_keys: Sequence[str] = ('sample_idx', 'img_shape', 'flip', 'flip_direction')) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """``inputs`` and ``data_samples``."""
        img = results['img']
        results = dict(results, img_shape=img.shape[:2])
        sample = ClsDataSample(metainfo={key: results[key] for key in self.meta_keys if key in results})
        if 'gt_label' in results:
            sample.gt_label = torch.tensor([int(results['gt_label'])])
        return dict(inputs=torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1))), data_samples=sample)

    def __repr__(self) -> str:
        return f'PackClsInputs(meta_keys={self.meta_keys})'


@FUNCTIONS.register_module()
def stack_images(batch: Sequence[dict]) -> dict:
    """A batch of packed images of one size, as ``collate_fn``: they are moved and normalised at once, as one tensor.

    Args:
        batch (Sequence[dict]): What :class:`PackClsInputs` gives, one per image.
    """
    return dict(inputs=torch.stack([item['inputs'] for item in batch]),  # (N, C, H, W)
                data_samples=[item['data_samples'] for item in batch])
