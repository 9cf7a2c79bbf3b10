# Control: each image with the teacher's maps of another one.
_base_ = '../digits/gkd_teacher_30e.py'

custom_imports = dict(imports=['mmgkd', 'controls'], allow_failed_imports=False)
model = dict(connector=dict(type='ShuffledConnector', shuffle='images'))
work_dir = 'work_dirs/study_other_images'
