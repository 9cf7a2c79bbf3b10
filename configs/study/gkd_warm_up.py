# GKD whose weight rises over the first tenth of the training, a method file.
_base_ = '../_base_/gkd.py'

distill_hooks = [dict(type='DistillWeightHook', warmup=0.1)]  # a share of the training
