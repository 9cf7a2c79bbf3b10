# DIST, Huang et al., NeurIPS 2022, on the locations of dense heads that are to find an object.
# No weights are published for detectors.
_base_ = '../dist.py'
