# AT: attention transfer, Zagoruyko and Komodakis, ICLR 2017, at all stages, with the paper's weight on the mean.
_base_ = '../at.py'

distill_losses = dict(at=dict(loss_weight=1000., reduction='mean'))
