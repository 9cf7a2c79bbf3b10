r"""Holding the gradient of distillation below that of the task.

The rule of MHGD (Lee and Song, BMVC 2019), as their code has it: the gradient of a distillation loss in each parameter
tensor is scaled by

.. math:: \min\big(1, s\,\|g_{task}\| / \|g_{distill}\|\big), \qquad s = w\,\sigma(e)

with the epoch :math:`e`, so that it starts at half of the task's at most and ends at all of it, and the weight
:math:`w` that :class:`mmgkd.hooks.DistillWeightHook` sets.

- ``full``: that, at the price of a second backward pass.
- ``feature``: this project's. One such factor, from the norms over all maps that are distilled. Both gradients pass
  there in the one backward pass, so it costs nothing.
- ``none``: the gradient stays as it is.

The task is the student's own losses. What only distillation trains, such as connectors, is not held down.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .features import feature_maps
from .functional import float32_island

__all__ = ['RULES', 'check_rules', 'fork_output', 'hold_down', 'limited_gradients']

RULES = ('none', 'feature', 'full')


def check_rules(losses: Mapping[str, nn.Module]) -> str:
    """The rule in use, ``none`` if no loss has one.

    Raises:
        ValueError: A rule is unknown, or there are two.
    """
    rules = {name: loss.gradient_rule for name, loss in losses.items() if loss.gradient_rule != 'none'}
    if unknown := {name: rule for name, rule in rules.items() if rule not in RULES}:
        raise ValueError(f'gradient_rule must be one of {RULES}, got {unknown}')
    if len(set(rules.values())) > 1:
        raise ValueError(f'losses that have a gradient_rule must have the same, got {rules}')
    return next(iter(rules.values()), 'none')


@contextmanager
def fork_output(distiller, module: nn.Module) -> Iterator[list[Tensor]]:
    """The rule ``feature``: inside, what follows ``module`` gets one copy of its maps, distillation another.

    In the backward pass the second's gradient is held below the first's, and their sum goes on into the module.

    Args:
        distiller (Distiller): Says whether that is the rule.
        module (nn.Module): Of the student; gives (N, C, H, W), or a sequence of them over levels.

    Yields:
        list[Tensor]: The copies for distillation, once the module has run; none under another rule.
    """
    forks: list[Tensor] = []
    if distiller._rule != 'feature':
        yield forks
        return

    def fork(_module, _args, output):
        maps = feature_maps(output)
        copies = _Fork.apply(_bound(distiller), *maps)
        forks[:] = copies[len(maps):]
        return copies[0] if isinstance(output, Tensor) else type(output)(copies[:len(maps)])
    handle = module.register_forward_hook(fork)
    try:
        yield forks
    finally:
        handle.remove()


def hold_down(distiller, task: dict, terms: dict) -> dict:
    """All losses; under the rule ``full`` with the same values, and the gradient of the task and of what is held down
    below it in one of them, where the optimiser can scale, accumulate and average it as ever.

    Args:
        distiller (Distiller): Says whether that is the rule.
        task (dict): The student's own losses.
        terms (dict): What :meth:`Distiller.distill` gives.
    """
    if distiller._rule != 'full' or not torch.is_grad_enabled():
        return task | terms
    held = [[key for term in loss.weights if (key := f'loss_{name}_{term}') in terms]
            for name, loss in distiller.distill_losses.items() if loss.gradient_rule == 'full']
    student, own = [p for p in distiller.student.parameters() if p.requires_grad], distiller.own_parameters()
    scaler = distiller.loss_scaler
    gradients = limited_gradients(
        distiller.parse_losses(task)[0], [sum(sum(terms[key]) for key in keys) for keys in held], student, own,
        bound=_bound(distiller), scale=1. if scaler is None else scaler.scale(student[0].new_ones(())))
    losses = {key: _detached(value) for key, value in task.items()} | terms
    for keys in held:
        losses |= {key: _detached(terms[key]) for key in keys}
    losses[held[0][0]].append(_Given.apply(gradients, *student, *own))
    return losses


def limited_gradients(task: Tensor, distill: Sequence[Tensor], student: Sequence[Tensor], own: Sequence[Tensor] = (),
                      *, bound: float = 1., scale: float | Tensor = 1.) -> list[Tensor]:
    r""":math:`g_{task} + \sum g_{distill} \min(1, s\,\|g_{task}\| / \|g_{distill}\|)` in each parameter.

    Args:
        task (Tensor): The sum of the student's own losses.
        distill (Sequence[Tensor]): Each loss that is held down.
        student (Sequence[Tensor]): Parameters in which that is done.
        own (Sequence[Tensor]): Parameters of distillation alone, where it is not.
        bound (float): :math:`s`.
        scale (float | Tensor): Losses are multiplied by it, gradients divided: those of half precision would vanish.
    """
    parameters = [*student, *own]
    total = _gradients(task * scale, parameters)
    limit = bound * _norms(total[:len(student)])
    for loss in distill:
        gradients = _gradients(loss * scale, parameters)
        factors = [*_factor(limit, _norms(gradients[:len(student)])), *[1.] * len(own)]
        total = [a + factor * b for a, factor, b in zip(total, factors, gradients, strict=True)]
    return [g / scale for g in total]


class _Fork(torch.autograd.Function):
    """Two copies of each map, the gradient of all second ones held below that of all first ones."""

    @staticmethod
    def forward(ctx, bound, *maps):
        ctx.bound = bound
        return tuple(x.detach() for x in (*maps, *maps))  # no views: a head may change its maps in place

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        task, distill = gradients[:len(gradients) // 2], gradients[len(gradients) // 2:]
        limit, norm = (torch.linalg.vector_norm(_norms(x)) for x in (task, distill))
        factor = _factor(ctx.bound * limit, norm)
        return None, *(a + factor * b for a, b in zip(task, distill, strict=True))


class _Given(torch.autograd.Function):
    """A zero with given gradients."""

    @staticmethod
    def forward(ctx, gradients, *parameters):
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return None, *(grad * g for g in ctx.gradients)


def _bound(distiller) -> float:
    return distiller.distill_weight / (1 + math.exp(-distiller.epoch))


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    with float32_island(loss):  # a backward pass inside autocast would be cast down where the forward pass was not
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """(K,), in float32 at least."""
    return torch.stack([torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
                        for x in tensors])


def _factor(limit: Tensor, norm: Tensor) -> Tensor:
    """What brings a norm down to a limit; 1 where it is not above."""
    return torch.where(norm > limit, limit / torch.where(norm > 0, norm, 1), 1)


def _detached(value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return value.detach() if isinstance(value, Tensor) else [x.detach() for x in value]
