"""What a method did to its own terms: measured on the same batches for a student trained with it and one without.

    python tools/own_terms.py CONFIG CHECKPOINT --without CHECKPOINT --out terms.json

Terms in a training's log cannot be compared so: memories fill and sampled regions change while it runs. Here all but
the student, learned parts included, is as at the end of the training with the method.
"""
from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmgkd import Distiller  # noqa: E402
from mmgkd.checkpoint import load_weights  # noqa: E402


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a distillation')
    parser.add_argument('checkpoint', help='what its training left')
    parser.add_argument('--without', required=True, metavar='CHECKPOINT', help='of the same student, trained otherwise')
    parser.add_argument('--batches', type=int, default=20, help='of the training data (default: 20)')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='write the terms here, as JSON')
    args = parser.parse_args(argv)
    if args.batches < 1:
        parser.error(f'--batches must be at least 1, got {args.batches}')
    return args


def own_terms(cfg: Config, checkpoint: str, without: str, batches: int = 20) -> dict[str, tuple[float, float]]:
    """Each raw term for the student of ``without`` and for that of ``checkpoint``: means over batches.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        RuntimeError: A checkpoint is of another model.
    """
    from mmdet.registry import MODELS
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    weights, other = load_weights(checkpoint), load_weights(without)
    loader = deepcopy(cfg.train_dataloader)
    loader |= dict(num_workers=0, persistent_workers=False)  # whose random numbers are this process's
    found = []
    for replaced in (True, False):
        set_random_seed(0)
        model: Distiller = MODELS.build(cfg.model)
        model.load_state_dict(weights)
        if replaced:
            model.student.load_state_dict({key: other[key] for key in model.student.state_dict() if key in other})
        batches_seen = itertools.islice(Runner.build_dataloader(loader, seed=0), batches)
        found.append(mean_terms(model.train(), batches_seen))
    return {term: (found[0][term], found[1][term]) for term in found[0]}


@torch.no_grad()
def mean_terms(model: Distiller, batches) -> dict[str, float]:
    """The raw terms, as they are logged, over batches of a data loader."""
    found: dict[str, list[float]] = {}
    MessageHub.get_current_instance().update_info('iter', 0)  # a YOLOX's preprocessor reads it
    for batch in batches:
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        for term in (key for key in losses if f'loss_{key}' in losses):
            found.setdefault(term, []).append(float(losses[term]))
    return {term: statistics.fmean(values) for term, values in found.items()}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    terms = own_terms(Config.fromfile(args.config), args.checkpoint, args.without, args.batches)
    args.out.write_text(json.dumps(terms, indent=1))
    for term, (without, having) in terms.items():
        print(f'{term}: {without:.4g} without, {having:.4g} with')


if __name__ == '__main__':
    main()
