# GKD as it was by default until docs/tuning.md's eighth round, a method file: a quarter of the weights, which fall.
_base_ = '../_base_/gkd.py'

distill_losses = dict(gkd=dict(vertex_weight=100., edge_weight=10., spectral_weight=10.))
distill_hooks = [dict(type='DistillWeightHook', decay_from=0.25, stop=0.85)]  # shares of the training
