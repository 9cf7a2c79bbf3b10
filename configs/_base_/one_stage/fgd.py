# FGD for one-stage detectors: the authors' RetinaNet R50 and GFL R50, all FPN levels. Their RepPoints has 1.6 times
# these weights, and their FCOS those and a temperature of 0.8.
_base_ = '../fgd.py'

distill_losses = dict(fgd=dict(
    foreground_weight=1e-3, background_weight=5e-4, attention_weight=5e-4, relation_weight=5e-6))
