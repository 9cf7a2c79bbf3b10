# HKD: Zhou et al., ICCV 2021. On the boxes of a detector's batch, with a queue: this project's way, there are no
# published numbers. Each of four contrasts rises to about 9 as the queue fills, so the weights are small, and
# rise slowly.
distill_losses = dict(hkd=dict(type='HolisticGraphLoss', memory='queue', individual_weight=0.05, graph_weight=0.05))
distill_hooks = [dict(type='DistillWeightHook', warmup=500)]  # iterations
