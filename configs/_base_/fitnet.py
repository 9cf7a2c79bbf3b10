# FitNet: Romero et al., ICLR 2015. The paper has no detector; 0.5 for the mean squared error of each FPN level is the
# weight that DSIG (Chen et al., ICCV 2021) gives it for Faster R-CNN.
distill_losses = dict(fitnet=dict(type='FitNetLoss', loss_weight=0.5))
distill_hooks = []
