# SP, Tung and Mori, ICCV 2019, between the images of a batch.
_base_ = '../sp.py'

distill_losses = dict(sp=dict(loss_weight=3000., nodes=dict(type='images', pool=False)))
