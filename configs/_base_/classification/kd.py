# KD, Hinton et al., NIPS workshop 2014, as it is set for CIFAR-100 classifiers.
_base_ = '../kd.py'

distill_losses = dict(kd=dict(loss_weight=1., temperature=4.))
