# LD, Zheng et al., CVPR 2022: for heads that predict distributions of box edges, such as GFL's; the method alone.
distill_losses = dict(ld=dict(type='LDLoss', loss_weight=0.25, temperature=10.))
distill_hooks = []
