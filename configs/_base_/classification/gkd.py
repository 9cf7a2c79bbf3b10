# GKD for classifiers, whose first stages have as few as 16 channels.
_base_ = '../gkd.py'

distill_losses = dict(gkd=dict(num_eigenvectors=8))
