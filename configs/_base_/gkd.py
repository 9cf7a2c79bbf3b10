# GKD, the method alone: a pair config adds the student, the teacher and the data.
# Weights were chosen on BCCD, digits and DeepPCB, the window on digits, with gradients clipped at a norm of 35, see
# docs/tuning.md.
distill_losses = dict(gkd=dict(
    type='ChannelGraphLoss', vertex_weight=400., edge_weight=40., spectral_weight=40., level_weights='cells',
    window_size=4))
distill_hooks = []
