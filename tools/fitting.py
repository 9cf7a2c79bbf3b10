"""Whether a checkpoint is of the model that is tested: the runner says what does not fit, and tests all the same."""
from __future__ import annotations

from collections import OrderedDict

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor
from torch.nn import Module

from mmgkd.checkpoint import told
from mmgkd.preflight import InputError
from mmgkd.state import plain_name


class CheckpointFits(Hook):
    """Refuses a checkpoint that leaves a parameter of the model at its random start; buffers may be left.

    Raises:
        InputError: It is of another model.
    """

    priority = 'VERY_LOW'  # after those that change what is read, such as EMAHook

    def __init__(self, path: str) -> None:
        self.path = path

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Load what was read, once before the runner does."""
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        read = checkpoint.get('state_dict', checkpoint)
        weights = OrderedDict((key.removeprefix('module.'), value) for key, value in read.items())
        weights._metadata = getattr(read, '_metadata', None)  # modules convert old weights by their versions
        load_fitting(model, weights, self.path)


def load_fitting(model: Module, weights: dict[str, Tensor], path: str) -> None:
    """Load weights that leave no parameter as it is.

    Raises:
        InputError: They do.
    """
    own = {plain_name(name): tuple(value.shape) for name, value in model.named_parameters()}
    try:
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except ValueError as error:  # the Distiller's
        raise InputError(f'checkpoint {path!r}: {error}') from error
    except RuntimeError as error:
        if 'size mismatch' not in str(error):
            raise
        missing = set(own) - set(weights)
    missing = sorted(own.keys() & {plain_name(key) for key in missing})
    shaped = [f'{name}: {tuple(weights[name].shape)} in the file, {shape} in the config'
              for name, shape in own.items() if name in weights and tuple(weights[name].shape) != shape]
    if missing or shaped:
        raise InputError(f'checkpoint {path!r} is not of the model of this config: of {len(own)} parameters '
                         f'{told(missing=missing, mis_shaped=shaped)}. Name the config that it was trained with')
