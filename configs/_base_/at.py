# AT: attention transfer, Zagoruyko and Komodakis, ICLR 2017. The paper has no detector: its weight of 1000 on a mean
# over cells is 1, 4 and 16 on a sum over the cells of its maps of 32 x 32, 16 x 16 and 8 x 8. Here 4, for any size.
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)

distill_losses = dict(at=dict(type='AttentionTransferLoss', loss_weight=4., reduction='sum'))
distill_hooks = []
