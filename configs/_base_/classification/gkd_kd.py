# GKD and KD (Hinton et al., 2015) together. The weights of both fall.
_base_ = './gkd.py'

distill_losses = dict(kd=dict(type='KLLoss', temperature=4., loss_weight=1.))
