# GKD for classifiers, whose first stages have as few as 16 channels, and whose maps have so few cells that one graph
# for the batch tells more than one for each image. On digits, a seed not in docs/results.md: 88.3 % against 85.6 %.
_base_ = '../gkd.py'

distill_losses = dict(gkd=dict(
    vertex_weight=3., edge_weight=1., spectral_weight=1., level_weights=None, num_eigenvectors=8, pooled=True,
    attention=('spatial', 'channel'), window_size=None))
