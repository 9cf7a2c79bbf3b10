# SP, Tung and Mori, ICCV 2019, between the boxes of a batch.
# A tenth of the weight for classifiers, as none is published for detectors: on BCCD a third of the task loss at first.
custom_imports = dict(imports=['mmgkd'], allow_failed_imports=False)

distill_losses = dict(sp=dict(type='SimilarityPreservingLoss', loss_weight=300.))  # nodes='instances'
distill_hooks = []
