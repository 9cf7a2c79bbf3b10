# Control: the teacher's channels in another order in each iteration.
_base_ = '../digits/gkd_teacher_30e.py'

custom_imports = dict(imports=['mmgkd', 'controls'], allow_failed_imports=False)
model = dict(connector=dict(type='ShuffledConnector', shuffle='channels anew'))
work_dir = 'work_dirs/study_changing_channels'
