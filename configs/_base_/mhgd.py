# MHGD: attention graphs, Lee and Song, BMVC 2019. The paper is about classifiers: instances, layer norms, the mean over
# nodes and the cheap gradient rule are for detectors.
# The weight, with which the loss starts at 0.1 to 0.6, and the 2000 iterations for the heads are not tuned.
distill_losses = dict(mhgd=dict(
    type='AttentionGraphLoss', nodes='instances', compress='svd', num_heads=8, norm='layer', reduction='mean',
    gradient_rule='feature', loss_weight=1., estimator_iters=2000))
distill_hooks = [dict(type='PrepareLossesHook')]  # trains the attention heads on the teacher before the first iteration
