# MHGD: attention graphs, Lee and Song, BMVC 2019, as published: a node per image, heads of 40 epochs, the sum held down.
# The backbone has to give several stages (out_indices), and a batch some sixteen images or more per process.
distill_losses = dict(mhgd=dict(
    type='AttentionGraphLoss', nodes='images', compress='svd', num_heads=8, norm='batch', reduction='sum',
    gradient_rule='full', loss_weight=1., estimator_epochs=40))
distill_hooks = [dict(type='PrepareLossesHook')]  # trains the attention heads on the teacher before the first iteration
