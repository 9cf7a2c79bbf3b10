# FBKD: Zhang and Ma, ICLR 2021. Weights, strides and reductions of MMRazor's Faster R-CNN R101 to R50, which are the
# authors' code's; no others are known to us for one-stage detectors.
# Published on P2 to P5: in the pair, connector=dict(student_levels=[0, 1, 2, 3], teacher_levels=[0, 1, 2, 3]).
distill_losses = dict(fbkd=dict(
    type='FBKDLoss', feature_weight=7e-5, channel_weight=4e-3, spatial_weight=4e-3, relation_weight=7e-5,
    temperature=0.5, strides=(8, 4, 2, 2), reductions=(4, 4, 2, 2)))
distill_hooks = []
