# GKD, the method alone: a pair config adds the student, the teacher and the data.
# Weights and schedule were chosen on BCCD, the window on digits, with gradients clipped at a norm of 35, see
# docs/tuning.md.
distill_losses = dict(gkd=dict(
    type='ChannelGraphLoss', vertex_weight=100., edge_weight=10., spectral_weight=10., level_weights='cells',
    window_size=4))
distill_hooks = [dict(type='DistillWeightHook', decay_from=0.25, stop=0.85)]  # shares of the training
