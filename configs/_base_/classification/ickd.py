# ICKD: Liu et al., ICCV 2021. The authors' weight for CIFAR-100 is 2.5, on one map: 0.8 on each of three stages.
_base_ = '../ickd.py'

distill_losses = dict(ickd=dict(loss_weight=0.8))
