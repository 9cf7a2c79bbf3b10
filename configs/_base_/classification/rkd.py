# RKD, Park et al., CVPR 2019, between the images of a batch.
_base_ = '../rkd.py'

distill_losses = dict(rkd=dict(distance_weight=25., angle_weight=50., nodes='images'))
