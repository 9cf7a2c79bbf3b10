# GKD for classifiers, whose first stages have as few as 16 channels, and whose maps have so few cells that one graph
# for the batch tells more than one for each image, and windows nothing more than the whole map (docs/tuning.md).
_base_ = '../gkd.py'

distill_losses = dict(gkd=dict(level_weights=None, num_eigenvectors=8, pooled=True, window_size=None))
