# Control: a teacher of random weights, of which nothing is inherited; compare it with GKD of inherit=None.
_base_ = '../digits/gkd_teacher_30e.py'

model = dict(teacher=dict(checkpoint=None, allow_random=True), inherit=None)
work_dir = 'work_dirs/study_random_teacher'
