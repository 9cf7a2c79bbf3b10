# The geometric graph, Lassance et al., ICASSP 2020, between the images of a batch.
_base_ = '../geometric.py'

distill_losses = dict(geometric=dict(nodes='images'))
