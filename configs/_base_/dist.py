# DIST, Huang et al., NeurIPS 2022, on the sampled RoIs of two-stage detectors; the method alone.
# No weights are published for detectors: these are those of ImageNet.
distill_losses = dict(dist=dict(type='DISTLoss', inter_weight=2., intra_weight=2., temperature=1.))
distill_hooks = []
