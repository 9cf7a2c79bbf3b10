# CWD on the schedule of GKD that falls, a method file: tools/compare.py PAIR --methods cwd configs/study/cwd_decayed.py
_base_ = '../_base_/cwd.py'

distill_hooks = [dict(type='DistillWeightHook', decay_from=0.25, stop=0.85)]
