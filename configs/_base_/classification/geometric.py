# The geometric graph, Lassance et al., ICASSP 2020, between the images of a batch. As in the paper their maps are
# compared whole, but for the last stage's, which the paper averages over cells first.
_base_ = '../geometric.py'

distill_losses = dict(geometric=dict(loss_weight=25., nodes=dict(_delete_=True, type='images', pool=False)))
