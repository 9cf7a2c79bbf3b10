"""The teacher: frozen, strictly loaded, reduced to backbone and neck, and no part of the model that is trained."""
from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from torch import Tensor, nn

from .checkpoint import load_weights, told
from .detectors import image_channels, model_config
from .folding import PARTS, maps_of, quick
from .functional import float32_island
from .preprocessing import Renormalize

__all__ = ['Teacher']

DTYPES = {None: None, 'bfloat16': torch.bfloat16}


class Teacher:
    """A detector's backbone and neck, for features only.

    Not an ``nn.Module``, so that checkpoints, optimisers, EMA copies and distributed wrappers do not see it; a
    deep copy of its owner shares it. It is built and loaded when it is first needed, so never for inference.

    Args:
        config (str | dict): As :func:`mmgkd.detectors.model_config` takes it.
        checkpoint (str, optional): A file or a URL. ``None`` needs ``allow_random``.
        overrides (dict, optional): Merged into the model config.
        allow_random (bool): Permit ``checkpoint=None``: random weights, as an ablation.
        weights_only (bool): Refuse a checkpoint that needs general pickle.
        dtype (str, optional): ``bfloat16`` halves the time of backbone and neck, and their memory; maps are then
            about 1 % off. By default they have the dtype of the images. Heads are computed in that either way.

    Raises:
        ValueError: ``checkpoint`` is None without ``allow_random``, or the dtype is unknown.
    """

    def __init__(self, config: str | dict, checkpoint: str | None, *, overrides: dict | None = None,
                 allow_random: bool = False, weights_only: bool = True, dtype: str | None = None) -> None:
        if checkpoint is None and not allow_random:
            raise ValueError('teacher: checkpoint=None would distil from random weights. Give a file or a URL, or '
                             'write allow_random=True beside checkpoint=None if random weights are meant')
        if dtype not in DTYPES:
            raise ValueError(f'teacher: dtype must be one of {tuple(DTYPES)}, got {dtype!r}')
        self.config, self.overrides, self.dtype = config, overrides, DTYPES[dtype]
        self.checkpoint, self.weights_only = checkpoint, weights_only
        self.detector: nn.Module | None = None
        self._renormalize: Renormalize | None = None
        self._maps_from, self._parts, self._layout = 'neck', set(PARTS), torch.contiguous_format

    def __deepcopy__(self, memo: dict) -> Teacher:
        return self

    def model_config(self) -> ConfigDict:
        """The teacher's model config."""
        return model_config(self.config, self.overrides, role='teacher')

    def weights(self) -> dict[str, Tensor]:
        """All weights in the checkpoint, heads included, on the CPU.

        Raises:
            ValueError: There is no checkpoint.
        """
        if self.checkpoint is None:
            raise ValueError('teacher: it has no checkpoint (allow_random=True), so nothing can be inherited from it')
        return load_weights(self.checkpoint, weights_only=self.weights_only)

    def load(self, student_preprocessor: nn.Module, weights: dict[str, Tensor] | None = None, *,
             maps_from: str = 'neck', with_head: bool = False) -> None:
        """Build and load the detector, once.

        Args:
            student_preprocessor (nn.Module): The preprocessor of the batches that it will see.
            weights (dict, optional): What :meth:`weights` gave, if that was read already.
            maps_from (str): The module whose maps are distilled, ``neck`` or ``backbone``.
            with_head (bool): Keep the heads too.

        Raises:
            FileNotFoundError: No such config or checkpoint.
            ValueError: The checkpoint does not fit the config.
        """
        if self.detector is not None:
            return
        with torch.random.fork_rng(devices=[]):  # a student must start alike with and without a teacher
            config = self.model_config()
            detector = MODELS.build(config)
        self._renormalize = Renormalize(student_preprocessor, detector.data_preprocessor)
        self._maps_from = maps_from
        _compare_padding(student_preprocessor, detector.data_preprocessor)
        children = [name for name, _ in detector.named_children()]
        self._parts = {name for name in children if name in PARTS or _gives_features(detector, name)}
        for name in children:
            if name == 'data_preprocessor' or not (with_head or name in self._parts):
                delattr(detector, name)
        if self.checkpoint is not None:
            _load_strictly(detector, self.weights() if weights is None else weights, self.checkpoint)
        detector.eval().requires_grad_(False)
        self.detector, self._layout = quick(detector, maps_from, image_channels(config))
        # nothing may wake batch statistics, dropout or stochastic depth again
        self.detector.train = partial(_stay, self.detector)
        source = self.config if isinstance(self.config, str) else type(detector).__name__
        print_log(f'teacher: {source} with {self.checkpoint or "random weights"}, frozen, '
                  f'{"with its head" if with_head else "backbone and neck only"}', 'current')

    def __call__(self, inputs: Tensor, data_samples: Sequence | None) -> tuple[Tensor, ...]:
        """The maps of neck or backbone, (N, C, H, W) per level, without gradient.

        The teacher follows the batch to its device and dtype: its owner may be moved, cast or copied at any time.

        Args:
            inputs (Tensor): (N, C, H, W), preprocessed for the student.
            data_samples (Sequence, optional): One per image, for the extent of the padding.
        """
        self._follow(inputs)
        with torch.no_grad(), self._own_precision(inputs):
            x = self._renormalize(inputs, data_samples).to(self.dtype or inputs.dtype)
            return tuple(feat.to(inputs.dtype) for feat in maps_of(self.detector, self._maps_from, x, self._layout))

    def head_inputs(self, feats: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the head takes, from the maps of a call: those, or what a neck that gives no maps makes of them."""
        neck = getattr(self.detector, 'neck', None)
        if self._maps_from == 'neck' or neck is None:
            return feats
        with torch.no_grad(), self._own_precision(feats[0]):
            dtype = feats[0].dtype
            outputs = neck(tuple(feat.to(self.dtype or dtype) for feat in feats))
            return tuple(x.contiguous().to(dtype) for x in outputs) if isinstance(outputs, (tuple, list)) \
                else outputs.contiguous().to(dtype)  # there are operators that misread other layouts

    def _own_precision(self, like: Tensor) -> AbstractContextManager:
        """A dtype that was asked for, also within autocast, which would compute in its own."""
        return float32_island(like) if self.dtype else nullcontext()

    def _follow(self, inputs: Tensor) -> None:
        """To the device and dtype of a batch, but for what has a dtype of its own."""
        for name, part in self.detector.named_children():
            dtype = self.dtype if self.dtype and name in self._parts else inputs.dtype
            first = next(part.parameters(), None)
            if first is not None and (first.device, first.dtype) != (inputs.device, dtype):
                part.to(inputs.device, dtype)


def _gives_features(detector: nn.Module, name: str) -> bool:
    """Whether maps may depend on a part: one that is no head, where ``extract_feat`` names it or is not a library's."""
    method = inspect.unwrap(type(detector).extract_feat)
    own = not method.__module__.startswith(('mmdet.', 'mmpretrain.', 'mmgkd.'))
    return not name.endswith('head') and (own or name in getattr(getattr(method, '__code__', None), 'co_names', ()))


def _compare_padding(student: nn.Module, teacher: nn.Module) -> None:
    """Say where images may be of a size that the teacher's neck does not take."""
    given, wanted = (getattr(part, 'pad_size_divisor', 1) for part in (student, teacher))
    if given % wanted:
        print_log(f'teacher: its images are padded to multiples of {wanted} pixels, those of the student, which it '
                  f'sees, to multiples of {given}. Most necks take any size; where this one fails, set '
                  f'pad_size_divisor={wanted} in the student\'s data_preprocessor', 'current', logging.WARNING)


def _stay(detector: nn.Module, mode: bool = True) -> nn.Module:
    return detector


def _load_strictly(detector: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load every part that the detector has, or say what does not fit and why it probably does not."""
    parts = tuple(f'{name}.' for name, _ in detector.named_children())
    own = OrderedDict((k, v) for k, v in weights.items() if k.startswith(parts))
    own._metadata = getattr(weights, '_metadata', None)  # modules convert old weights by their versions
    target = {k: v for k, v in detector.state_dict().items() if k.startswith(parts)}
    misshaped = [f'{k}: {tuple(v.shape)} in the file, {tuple(target[k].shape)} in the config'
                 for k, v in own.items() if k in target and target[k].shape != v.shape]
    if not misshaped:
        result = detector.load_state_dict(own, strict=False)
        missing = [k for k in result.missing_keys if k in target and not k.endswith('num_batches_tracked')]
        unexpected = result.unexpected_keys
        if not missing and not unexpected:
            return
    else:
        missing, unexpected = sorted(set(target) - set(own)), sorted(set(own) - set(target))
    if not own:
        cause = f'it is of no such model: none of its keys begins with {" or ".join(parts)} ' \
                f'(the first is {next(iter(weights))!r})'
    elif misshaped and not missing and not unexpected and not any(k.startswith(PARTS) for k in misshaped):
        cause = 'the checkpoint knows another number of classes than the config: change num_classes there, or by ' \
                'overrides beside the config'
    elif misshaped or (missing and unexpected):
        cause = 'the config is of another architecture than the checkpoint (depth, width, neck or style)'
    elif missing:
        cause = 'the checkpoint is of a part of the model only, or of a smaller one'
    else:
        cause = 'the checkpoint is of a larger model, or of a neck with more levels'
    found = told(missing=missing, unexpected=unexpected, mis_shaped=misshaped)
    raise ValueError(f'teacher: checkpoint {source!r} does not fit its config in '
                     f'{", ".join(p.removesuffix(".") for p in parts)}: {found}. Likely cause: {cause}')
