# The geometric graph, Lassance et al., ICASSP 2020, between the boxes of a batch.
# The weight is that of the paper, of classifiers; none is published for detectors.
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)

distill_losses = dict(geometric=dict(type='GeometricGraphLoss', loss_weight=25., nodes='instances'))
distill_hooks = []
