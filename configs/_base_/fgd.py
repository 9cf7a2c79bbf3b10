# FGD: Yang et al., CVPR 2022. The authors' Faster R-CNN R50 and Mask R-CNN R50, taught by R101 or Cascade X101-DCN.
# Published on P2 to P5: in the pair, connector=dict(student_levels=[0, 1, 2, 3], teacher_levels=[0, 1, 2, 3]).
distill_losses = dict(fgd=dict(
    type='FGDLoss', foreground_weight=5e-5, background_weight=2.5e-5, attention_weight=5e-5, relation_weight=5e-7,
    temperature=0.5))
distill_hooks = []
