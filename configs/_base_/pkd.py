# PKD: Cao et al., NeurIPS 2022. Weight of MMRazor's Faster R-CNN R101 to R50, and of Mask R-CNN Swin to RetinaNet R50.
# Published on P2 to P5: in the pair, connector=dict(student_levels=[0, 1, 2, 3], teacher_levels=[0, 1, 2, 3]).
distill_losses = dict(pkd=dict(type='PKDLoss', loss_weight=6.))
distill_hooks = []
