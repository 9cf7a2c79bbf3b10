"""The image as the teacher wants it: the student's preprocessed batch under the teacher's mean, std and order."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .features import valid_cells

__all__ = ['Renormalize']


class Renormalize:
    """Turns a batch normalised for the student into one normalised for the teacher.

    Exact: both are the same pixels under per-channel affine maps, up to the order of the channels. Padding takes
    the teacher's own padding value. Images of equal normalisation pass through untouched.

    Args:
        student (nn.Module): The student's data preprocessor.
        teacher (nn.Module): The teacher's.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        mean_s, std_s, flip_s = _normalization(student)
        mean_t, std_t, flip_t = _normalization(teacher)
        self.flip = flip_s != flip_t
        if self.flip:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self.scale, self.shift = std_s / std_t, (mean_s - mean_t) / std_t  # (C, 1, 1) or (1, 1, 1)
        self.pad_value = float(getattr(teacher, 'pad_value', 0))
        self.identical = not self.flip and bool((self.scale == 1).all() and (self.shift == 0).all()) \
            and self.pad_value == float(getattr(student, 'pad_value', 0))

    def __call__(self, inputs: Tensor, data_samples: Sequence | None) -> Tensor:
        """(N, C, H, W) for the student in, the same for the teacher out."""
        if self.identical:
            return inputs
        x = inputs.flip(1) if self.flip else inputs
        x = x * self.scale.to(x) + self.shift.to(x)
        valid, = valid_cells([x], data_samples)  # (N, H, W) or None
        return x if valid is None else x.masked_fill_(~valid.unsqueeze(1), self.pad_value)


def _normalization(preprocessor: nn.Module) -> tuple[Tensor, Tensor, bool]:
    """Mean and std, (C, 1, 1) or (1, 1, 1), and whether it reverses the order of the loaded channels."""
    flips = getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'to_rgb', None))  # mmpretrain's
    if flips is None:
        raise ValueError(f'the normalisation of data preprocessor {type(preprocessor).__name__} is unknown, so the '
                         "teacher's image cannot be derived from the student's: use DetDataPreprocessor")
    mean = getattr(preprocessor, 'mean', torch.zeros(1, 1, 1)).cpu()
    std = getattr(preprocessor, 'std', torch.ones(1, 1, 1)).cpu()
    return mean, std, flips
