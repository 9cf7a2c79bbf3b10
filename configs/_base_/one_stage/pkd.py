# PKD for one-stage detectors: weight of MMRazor's RetinaNet X101, and FCOS X101, to RetinaNet R50.
_base_ = '../pkd.py'

distill_losses = dict(pkd=dict(loss_weight=10.))
