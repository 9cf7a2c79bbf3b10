# PKD: Cao et al., NeurIPS 2022, at all stages. The paper has no classifier: the weight is that of two-stage detectors.
_base_ = '../pkd.py'
