# AT: attention transfer, Zagoruyko and Komodakis, ICLR 2017. The paper has no detector: its weight of 1000 on a mean
# over cells is 1 to 16 on a sum over the cells of its maps. On digits 0.25 brings the maps as near, and holds a
# detector back less than 1 and 4 do.
distill_losses = dict(at=dict(type='AttentionTransferLoss', loss_weight=0.25, reduction='sum'))
distill_hooks = []
