# KD, Hinton et al., NIPS workshop 2014, on the locations of dense heads, weighted by the teacher's confidence.
# No weight is published for detectors.
_base_ = '../kd.py'
