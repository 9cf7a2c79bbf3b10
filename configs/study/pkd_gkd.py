# PKD beside GKD, a method file: tools/compare.py PAIR --methods gkd configs/study/pkd_gkd.py
_base_ = '../_base_/gkd.py'

distill_losses = dict(pkd=dict(type='PKDLoss', loss_weight=6.))
