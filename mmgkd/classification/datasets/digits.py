"""Handwritten digits, a data set that comes with scikit-learn, made hard enough to tell networks apart."""
from __future__ import annotations

import importlib.util

import cv2
import numpy as np
from mmdet.registry import DATASETS

from .base import LabelledImages

__all__ = ['DigitsImages']

SEED = 0
PER_CLASS = 80  # images to train on, of each digit; the other 997 are the test
SIDE = 20  # pixels of an image
DIGIT = 12  # of a digit in it
NEIGHBOUR = 0.8  # brightness of the digit beside it, in terms of its own
NOISE = 0.05  # standard deviation, in terms of white


@DATASETS.register_module()
class DigitsImages(LabelledImages):
    """The 1797 scanned digits of scikit-learn (Alpaydin and Kaynak, 1998) on images of 20 x 20 pixels.

    Each of the 8 x 8 scans is enlarged, turned by up to 30 degrees, moved by up to 5 pixels, dimmed, partly covered
    by a piece of another digit that enters from the left or the right, and noisy. All of that is drawn from a fixed
    seed for each image, so that every run sees the same images. 80 of each class are to train on, 997 are the test;
    a neighbour comes from the same part.

    The arguments are those of :class:`LabelledImages`; there are no files.
    """

    METAINFO = dict(classes=tuple('0123456789'))

    def check_files(self) -> None:
        """See :class:`LabelledImages`."""
        if importlib.util.find_spec('sklearn') is None:
            raise FileNotFoundError('the digits come with scikit-learn, which is not installed: pip install '
                                    'scikit-learn')

    def load_images(self) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`LabelledImages`."""
        self.check_files()
        from sklearn.datasets import load_digits
        scans, labels = load_digits(return_X_y=True)
        chosen = _split(labels)[self.split]
        digits = [cv2.resize(scan.reshape(8, 8).astype(np.float32) / 16, (DIGIT, DIGIT)) for scan in scans[chosen]]
        images = [_image(digits, i, np.random.default_rng((SEED, int(index)))) for i, index in enumerate(chosen)]
        return np.stack(images), labels[chosen]


def _split(labels: np.ndarray) -> dict[str, np.ndarray]:
    """The indices of both parts, each in rising order."""
    rng = np.random.default_rng(SEED)
    train = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:PER_CLASS] for c in np.unique(labels)])
    return dict(train=np.sort(train), test=np.setdiff1d(np.arange(len(labels)), train))


def _image(digits: list[np.ndarray], index: int, rng: np.random.Generator) -> np.ndarray:
    """A digit in its surroundings, (20, 20, 3)."""
    margin = (SIDE - DIGIT) / 2
    turn = cv2.getRotationMatrix2D(((DIGIT - 1) / 2,) * 2, rng.uniform(-30, 30), rng.uniform(0.8, 1.1))
    turn[:, 2] += margin + rng.uniform(-5, 5, 2)
    beside = margin + rng.choice((-1, 1)) * rng.uniform(0.5, 0.8) * SIDE, margin + rng.uniform(-0.5, 0.5) * SIDE
    shift = np.array([[1, 0, beside[0]], [0, 1, beside[1]]])
    neighbour = digits[rng.integers(len(digits))]
    ink = np.maximum(cv2.warpAffine(digits[index], turn, (SIDE, SIDE)),
                     NEIGHBOUR * cv2.warpAffine(neighbour, shift, (SIDE, SIDE)))  # (20, 20), from 0 to 1
    grey = 0.15 + 0.6 * rng.uniform(0.4, 1) * ink + rng.normal(0, NOISE, ink.shape)
    return np.repeat((255 * grey.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)
