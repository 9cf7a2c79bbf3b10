# ICKD: Liu et al., ICCV 2021. The authors' weight for CIFAR-100.
_base_ = '../ickd.py'
