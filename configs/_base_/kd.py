# KD, Hinton et al., NIPS workshop 2014, on the sampled RoIs of two-stage detectors; the method alone.
# No weight is published for detectors: here a RoI's divergence counts as much as its cross entropy.
distill_losses = dict(kd=dict(type='KLLoss', loss_weight=1., temperature=1.))
distill_hooks = []
