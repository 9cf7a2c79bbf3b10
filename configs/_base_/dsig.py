# DSIG, Chen et al., ICCV 2021.
# The weights are those of ResNet-50 from ResNet-101, 0.5, 0.5 and 1, times the two images of a GPU that the reference
# sums over, where the loss has a mean. For ResNet-18 from ResNet-50: edge_weight=4.
distill_losses = dict(dsig=dict(type='DSIGLoss', foreground_weight=1., background_weight=1., edge_weight=2.))
distill_hooks = []
