# FitNet: Romero et al., ICLR 2015, at all stages. A tenth of the 100 that CRD's benchmark gives one stage: with 100 at
# every stage a training on digits diverged.
_base_ = '../fitnet.py'

distill_losses = dict(fitnet=dict(loss_weight=10.))
