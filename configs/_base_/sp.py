# SP, Tung and Mori, ICCV 2019, between the boxes of a batch.
# None is published for detectors; 3000 is that of classifiers. On digits 300 and 30 hold a detector back, 3 does not.
distill_losses = dict(sp=dict(type='SimilarityPreservingLoss', loss_weight=3.))  # nodes='instances'
distill_hooks = []
