# MGD for one-stage detectors: the authors' RetinaNet R50 and RepPoints R50, all FPN levels.
_base_ = '../mgd.py'

distill_losses = dict(mgd=dict(loss_weight=2e-5, ratio=0.65))
