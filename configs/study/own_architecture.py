# Control: the teacher is another student, trained for three times as long.
_base_ = '../digits/gkd_teacher_30e.py'

model = dict(teacher=dict(config='{{ fileDirname }}/student_30e.py', checkpoint='work_dirs/study_student_30e/epoch_30.pth'))
work_dir = 'work_dirs/study_own_architecture'
