# MGD: Yang et al., ECCV 2022. The authors' Faster R-CNN R50 and Mask R-CNN R50, taught by Cascade Mask R-CNN X101-DCN.
# Published on P2 to P5: in the pair, connector=dict(student_levels=[0, 1, 2, 3], teacher_levels=[0, 1, 2, 3]).
distill_losses = dict(mgd=dict(type='MGDLoss', loss_weight=5e-7, ratio=0.45))
distill_hooks = []
