"""What distillation does beside an iteration: the weight over time, and what has to precede training."""
from __future__ import annotations

import math

from mmdet.registry import HOOKS
from mmengine.hooks import Hook

from .running import epoch_length, trained_model

__all__ = ['DistillWeightHook', 'PrepareLossesHook']


@HOOKS.register_module()
class DistillWeightHook(Hook):
    """Warm-up, decay and stop of the factor on all distillation losses.

    The factor rises linearly to 1 during ``warmup``, is 1 until ``decay_from``, falls to 0 at ``stop``, and is 0
    from there on, where the teacher is not run at all. It depends on the iteration alone, so a resumed run goes on
    as it would have.

    Each point is an int, which counts iterations or epochs, or a float from 0 to 1, a share of the whole training.

    Args:
        warmup (int | float): Length of the rise.
        decay_from (int | float, optional): Where the fall begins; ``None`` falls at once, at ``stop``.
        stop (int | float, optional): Where distillation ends; ``None`` never.
        decay (str): ``cosine`` or ``linear``.
        by_epoch (bool): Ints are epochs (True) or iterations (False).

    Raises:
        ValueError: A point is out of range, the points are not in order, or a decay has no ``stop``.
        TypeError: The model is not a :class:`Distiller`.
    """

    def __init__(self, *, warmup: float = 0, decay_from: float | None = None, stop: float | None = None,
                 decay: str = 'cosine', by_epoch: bool = False) -> None:
        if decay not in ('cosine', 'linear'):
            raise ValueError(f"decay must be 'cosine' or 'linear', got {decay!r}")
        if decay_from is not None and stop is None:
            raise ValueError(f'decay_from={decay_from} needs a stop, where the factor reaches 0')
        self.points = dict(warmup=warmup, decay_from=decay_from, stop=stop)
        for name, point in self.points.items():
            if point is not None and (point < 0 or (isinstance(point, float) and point > 1)):
                raise ValueError(f'{name} must be an int of at least 0, or a float from 0 to 1, got {point}')
        for kind in (int, float):  # points of different kinds are compared when the length of training is known
            _check_order({name: p for name, p in self.points.items() if isinstance(p, kind)})
        self.decay, self.by_epoch = decay, by_epoch

    def weight_at(self, iteration: int, *, epoch_length: int = 1, total: int = 1) -> float:
        """The factor, from 0 to 1.

        Args:
            iteration (int): Counted from 0.
            epoch_length (int): Iterations in an epoch.
            total (int): Iterations in the whole training.
        """
        unit = epoch_length if self.by_epoch else 1
        points = {name: round(point * total) if isinstance(point, float) else point * unit
                  for name, point in self.points.items() if point is not None}
        _check_order(points, f' iterations, of {total} in all')
        warmup, stop = points['warmup'], points.get('stop', math.inf)
        decay_from = points.get('decay_from', stop)
        if iteration >= stop:
            return 0.
        if iteration < warmup:
            return (iteration + 1) / warmup
        if iteration < decay_from:
            return 1.
        done = (iteration - decay_from) / (stop - decay_from)
        return 1 - done if self.decay == 'linear' else (1 + math.cos(math.pi * done)) / 2

    def before_train(self, runner) -> None:
        """Refuse a second such hook, as there is one factor, on all losses, and points that are not in order."""
        if _same_kind(self, runner)[0] is not self:
            raise ValueError('there are two DistillWeightHooks in custom_hooks, but one factor on all distillation '
                             'losses: of the hooks of two methods keep one')
        self.weight_at(0, epoch_length=epoch_length(runner), total=runner.max_iters)

    def before_train_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Set the factor, and log it as ``distill_weight``."""
        model = _distiller(runner, self)
        model.distill_weight = self.weight_at(
            runner.iter, epoch_length=epoch_length(runner), total=runner.max_iters)
        runner.message_hub.update_scalar('train/distill_weight', model.distill_weight)


@HOOKS.register_module()
class PrepareLossesHook(Hook):
    """Before the first iteration, lets each loss do what it has to, such as training an estimator on the teacher.

    It also tells the distiller what a gradient rule goes by: the epoch, and the loss scaler of mixed precision.

    Raises:
        TypeError: The model is not a :class:`Distiller`.
    """

    def before_train(self, runner) -> None:
        """Call each loss's ``before_training``; a resumed run has loaded its state by then."""
        model = _distiller(runner, self)
        if _same_kind(self, runner)[0] is not self:
            return  # one of two methods' hooks has done it
        model.loss_scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        for loss in model.distill_losses.values():
            loss.before_training(runner)

    def before_train_iter(self, runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Set the epoch, also where training is counted in iterations."""
        _distiller(runner, self).epoch = runner.iter // epoch_length(runner)


def _same_kind(hook: Hook, runner) -> list[Hook]:
    return [other for other in getattr(runner, 'hooks', [hook]) if type(other) is type(hook)]


def _distiller(runner, hook: Hook):
    model = trained_model(runner)
    if not hasattr(model, 'distill_losses'):
        raise TypeError(f'{type(hook).__name__} needs a Distiller, the model is a {type(model).__name__}')
    return model


def _check_order(points: dict[str, float], of: str = '') -> None:
    if list(points.values()) != sorted(points.values()):
        raise ValueError('DistillWeightHook needs warmup <= decay_from <= stop, got '
                         + ', '.join(f'{name}={point}' for name, point in points.items()) + of)
