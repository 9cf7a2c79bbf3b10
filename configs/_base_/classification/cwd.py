# CWD: Shu et al., ICCV 2021, at all stages. The paper has no classifier: the weight is that of detectors.
_base_ = '../cwd.py'
