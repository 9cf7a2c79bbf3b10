# HKD (Zhou et al., ICCV 2021) and KD (Hinton et al., 2015) together, as published for classifiers.
_base_ = './hkd.py'

distill_losses = dict(kd=dict(type='KLLoss', temperature=4., loss_weight=1.))
