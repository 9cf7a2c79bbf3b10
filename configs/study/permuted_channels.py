# Control: the teacher's channels in another order, the same throughout the training.
_base_ = '../digits/gkd_teacher_30e.py'

custom_imports = dict(imports=['mmgkd', 'controls'], allow_failed_imports=False)
model = dict(connector=dict(type='ShuffledConnector', shuffle='channels'))
work_dir = 'work_dirs/study_permuted_channels'
