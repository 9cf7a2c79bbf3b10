"""Test a detector or a classifier, plain or distilled: python tools/test.py CONFIG CHECKPOINT.

A distilled student is tested alone: neither its teacher's config nor its weights need be there.
"""
from __future__ import annotations

import argparse
import os

from fitting import CheckpointFits
from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmgkd.config_parts import called, innermost
from mmgkd.preflight import InputError, check_testing, is_classifier, read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', help='config file, of the student, of its distillation or of the teacher')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for the metrics (default: work_dirs/<config name>)')
    parser.add_argument('--out', metavar='FILE.pkl', help='write the predictions to this pickle file')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='write images with predictions to this folder of the work folder')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per image with --show')
    parser.add_argument('--tta', action='store_true', help='average over flipped images (or the config\'s tta_model)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.launcher == 'pytorch':  # the others have variables of their own
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def configure(args: argparse.Namespace) -> Config:
    """The config with the command line's choices in it."""
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise InputError(f'--out must end in .pkl or .pickle, got {args.out}')
    cfg = read_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if is_classifier(cfg):
        if args.show or args.show_dir:
            raise InputError('--show and --show-dir draw boxes, and a classifier finds none: --out FILE.pkl writes '
                             'its predictions')
        if args.tta and 'tta_model' not in cfg:
            raise InputError('--tta merges the boxes of flipped images, and a classifier finds none: give the config '
                             'a tta_model and a tta_pipeline of your own')
    if args.show or args.show_dir:
        cfg = trigger_visualization_hook(cfg, args)
    return cfg


def augment(cfg: Config) -> None:
    """Test on each image and its mirror image, unless the config says how to augment."""
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
    flips = [[dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)],
             [dict(type='PackDetInputs', meta_keys=keys)]]
    for dataset in innermost(cfg.test_dataloader.dataset):
        steps = [step for step in dataset.get('pipeline', ()) if called(step) != 'PackDetInputs']
        if not steps and 'tta_pipeline' not in cfg:
            raise InputError(f'--tta: {called(dataset)} in test_dataloader has no pipeline to augment; give it one, or '
                             'the config a tta_pipeline')
        dataset.pipeline = cfg.get('tta_pipeline', [*steps, dict(type='TestTimeAug', transforms=flips)])
    tta_model = cfg.get('tta_model', dict(
        type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)))
    cfg.model = ConfigDict(**tta_model, module=cfg.model)


def main() -> None:
    args = parse_args()
    try:
        cfg = configure(args)
        check_testing(cfg)
        if args.out and called(cfg.test_evaluator) == 'MultiDatasetEvaluator':
            raise InputError('--out: a MultiDatasetEvaluator keeps no detections; test one data set at a time')
        if args.tta:
            augment(cfg)
    except InputError as error:
        raise SystemExit(f'tools/test.py: {error}') from None
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    if args.out:
        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
    runner.register_hook(CheckpointFits(args.checkpoint))
    try:
        runner.test()
    except InputError as error:
        raise SystemExit(f'tools/test.py: {error}') from None


if __name__ == '__main__':
    main()
