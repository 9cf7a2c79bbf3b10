# ICKD: Liu et al., ICCV 2021. The paper has no detector: 2.5 is the authors' weight for CIFAR-100, on one map:
# 0.5 on each of five.
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)

distill_losses = dict(ickd=dict(type='ICKDLoss', loss_weight=0.5))
distill_hooks = []
