# GKD on digits from a teacher trained for three times as long as the student.
_base_ = './gkd.py'

model = dict(teacher=dict(
    config='{{ fileDirname }}/teacher_30e.py', checkpoint='work_dirs/digits_teacher_30e/epoch_30.pth'))
work_dir = 'work_dirs/digits_gkd_teacher_30e'
