# FitNet: Romero et al., ICLR 2015, at all stages; 100 is CRD's benchmark's weight, of one stage.
_base_ = '../fitnet.py'

distill_losses = dict(fitnet=dict(loss_weight=100.))
