# RKD, Park et al., CVPR 2019, between the boxes of a batch.
# A tenth of the weights for classifiers, as none are published for detectors: on BCCD a third of the task loss at first.
distill_losses = dict(rkd=dict(type='RKDLoss', distance_weight=2.5, angle_weight=5., nodes='instances'))
distill_hooks = []
