# CWD: Shu et al., ICCV 2021. Weight and temperature of MMRazor's Faster R-CNN, RetinaNet and GFL, R101 to R50, all
# FPN levels: one-stage detectors have the same.
distill_losses = dict(cwd=dict(type='CWDLoss', loss_weight=10., temperature=1.))
distill_hooks = []
