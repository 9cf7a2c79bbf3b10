# The geometric graph, Lassance et al., ICASSP 2020, between the boxes of a batch.
# None is published for detectors; 25 is that of classifiers. On digits 25 and 5 hold a detector back, 1 does not.
distill_losses = dict(geometric=dict(type='GeometricGraphLoss', loss_weight=1., nodes='instances'))
distill_hooks = []
