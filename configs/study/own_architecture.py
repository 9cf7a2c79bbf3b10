# Control: the teacher is another student, trained twice as long.
_base_ = '../bccd/gkd.py'

model = dict(teacher=dict(config='{{ fileDirname }}/student_24e.py', checkpoint='work_dirs/study_student_24e/epoch_24.pth'))
work_dir = 'work_dirs/study_own_architecture'
