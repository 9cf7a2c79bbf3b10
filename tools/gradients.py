"""How distillation pulls on the student's maps: the gradient of each term there, beside that of the student's own loss.

    python tools/gradients.py CONFIG CHECKPOINT [CHECKPOINT ...]

For each checkpoint of a training and each level, over some batches of the training data: the norm of each term's
gradient relative to that of the student's own loss, and the cosine between the two. Terms have the weights that they
are trained with, before any decay.
"""
from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmgkd import Distiller  # noqa: E402
from mmgkd.checkpoint import load_weights  # noqa: E402
from mmgkd.features import capture_output, feature_maps  # noqa: E402
from mmgkd.preflight import InputError, read_config  # noqa: E402


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a distillation')
    parser.add_argument('checkpoints', nargs='+', help='what its training left')
    parser.add_argument('--batches', type=int, default=10, help='of the training data (default: 10)')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write the numbers here, as JSON')
    args = parser.parse_args(argv)
    if args.batches < 1:
        parser.error(f'--batches must be at least 1, got {args.batches}')
    return args


def gradients(model: Distiller, data: dict) -> dict[str, tuple[torch.Tensor, ...]]:
    """Of one batch: the gradient at each of the student's maps, of its own losses (``task``) and of each term."""
    MessageHub.get_current_instance().update_info('iter', 0)  # a YOLOX's preprocessor reads it
    batch = model.data_preprocessor(data, True)
    with capture_output(getattr(model.student, model._maps_from)) as outputs:
        losses = model(**batch, mode='loss')
    maps = feature_maps(outputs[0])
    names = {f'loss_{name}_{term}': f'{name}_{term}' for name, loss in model.distill_losses.items()
             for term in loss.weights}
    groups = {'task': {key: value for key, value in losses.items() if key not in names}}
    groups |= {short: {key: losses[key]} for key, short in names.items() if key in losses}
    return {name: torch.autograd.grad(model.parse_losses(group)[0], maps, retain_graph=True, allow_unused=True,
                                      materialize_grads=True) for name, group in groups.items()}


def measure(cfg: Config, checkpoint: str, batches: int = 10) -> dict[str, list[tuple[float, float]]]:
    """By term and level: the norm relative to that of the student's own loss, each summed over batches, and the cosine
    of both over all batches; infinite and nan where the student's own loss has no gradient.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: The checkpoint is of another model.
        ValueError: The config is of no distillation, or of one with a gradient rule.
    """
    from mmdet.registry import MODELS
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    set_random_seed(0)
    model = MODELS.build(cfg.model)
    if not isinstance(model, Distiller) or any(loss.gradient_rule != 'none' for loss in model.distill_losses.values()):
        raise ValueError('this needs a distillation whose losses have no gradient rule, which would change gradients')
    model.load_state_dict(load_weights(checkpoint))
    model.train()
    loader = Runner.build_dataloader(cfg.train_dataloader | dict(num_workers=0, persistent_workers=False), seed=0)
    sums: dict[str, list[torch.Tensor]] = {}
    for data in itertools.islice(loader, batches):
        of_batch = gradients(model, data)
        task = of_batch.pop('task')
        for name, grads in of_batch.items():
            levels = [torch.stack([x.norm(), y.norm(), x.square().sum(), y.square().sum(), (x * y).sum()]).double()
                      for x, y in zip(grads, task, strict=True)]
            sums[name] = [a + b for a, b in zip(sums[name], levels, strict=True)] if name in sums else levels
    return {name: [(float(x / y), float(both / (xx * yy).sqrt())) for x, y, xx, yy, both in levels]
            for name, levels in sums.items()}


def main() -> None:
    args = parse_args()
    try:
        cfg = read_config(args.config, None, None, 'none')
        results = {path: measure(cfg, path, args.batches) for path in args.checkpoints}
    except (FileNotFoundError, InputError, RuntimeError, ValueError) as error:
        raise SystemExit(f'tools/gradients.py: {error}') from None
    for path, terms in results.items():
        table = Table(title=f'{path}: norm relative to the student\'s own loss (cosine with it)', title_justify='left')
        for column in ('', *(f'level {i}' for i in range(len(next(iter(terms.values())))))):
            table.add_column(column)
        for name, levels in terms.items():
            table.add_row(name, *(f'{norm:.2g} ({cosine:+.2f})' for norm, cosine in levels))
        Console().print(table)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1))


if __name__ == '__main__':
    main()
