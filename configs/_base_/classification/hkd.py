# HKD: Zhou et al., ICCV 2021, as published for classifiers, on the last level that the connector chooses.
distill_losses = dict(hkd=dict(type='HolisticGraphLoss', memory='bank', individual_weight=3., graph_weight=3.))
distill_hooks = [dict(type='PrepareLossesHook')]  # the bank reads the classes of all images
