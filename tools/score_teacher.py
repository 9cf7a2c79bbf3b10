"""Test a pair's teacher on the images that its students are validated on: python tools/score_teacher.py PAIR.

The checkpoint is read as a training reads it: the same file of a URL, and without running what a pickle may contain.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from compare_teachers import scored_teacher
from fitting import load_fitting
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config
from mmengine.runner import Runner

from mmgkd.preflight import InputError
from mmgkd.teacher import Teacher


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('pair', help='config of a distillation')
    parser.add_argument('--out', type=Path, required=True, help='folder for scores.json and predictions.pkl')
    args = parser.parse_args()
    pair = Config.fromfile(args.pair)
    cfg = scored_teacher(pair)
    cfg.work_dir, cfg.load_from, cfg.resume = str(args.out), None, False
    runner = Runner.from_cfg(cfg)
    runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=str(args.out / 'predictions.pkl')))
    try:
        load_fitting(runner.model, Teacher(**pair.model.teacher).weights(), pair.model.teacher.checkpoint)
    except (InputError, FileNotFoundError, ValueError) as error:
        raise SystemExit(f'tools/score_teacher.py: {error}') from None
    scores = {name: value for name, value in runner.test().items() if isinstance(value, (int, float))}
    (args.out / 'scores.json').write_text(json.dumps(scores))


if __name__ == '__main__':
    main()
