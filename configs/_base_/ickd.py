# ICKD: Liu et al., ICCV 2021. The paper has no detector: 2.5 is the authors' weight for CIFAR-100, on one map.
# 0.5 and 0.1 on each of five levels hold a detector back, on digits; 0.02 does not, and brings the maps as near.
distill_losses = dict(ickd=dict(type='ICKDLoss', loss_weight=0.02))
distill_hooks = []
