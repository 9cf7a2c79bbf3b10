# RKD (Park et al., CVPR 2019) and KD (Hinton et al., 2015) together.
_base_ = './rkd.py'

distill_losses = dict(kd=dict(type='KLLoss', temperature=4., loss_weight=1.))
