# DSIG, Chen et al., ICCV 2021, for one-stage detectors, whose boxes are all foreground.
_base_ = '../dsig.py'

distill_losses = dict(dsig=dict(background_weight=0.))
