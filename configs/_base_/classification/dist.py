# DIST, Huang et al., NeurIPS 2022, as it is set for ImageNet classifiers.
_base_ = '../dist.py'
