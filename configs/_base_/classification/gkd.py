# GKD for classifiers, whose first stages have as few as 16 channels, and whose maps have so few cells that one graph
# for the batch tells more than one for each image, and windows nothing more than the whole map (docs/tuning.md).
_base_ = '../gkd.py'

distill_losses = dict(gkd=dict(
    vertex_weight=100., edge_weight=10., spectral_weight=10., level_weights=None, num_eigenvectors=8, pooled=True,
    window_size=None))
distill_hooks = [dict(type='DistillWeightHook', decay_from=0.25, stop=0.85)]  # shares of the training
