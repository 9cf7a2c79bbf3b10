# The student of BCCD, trained as long as its teacher: a control teaches with it, and shows what longer training gives.
_base_ = '../bccd/student.py'

train_cfg = dict(max_epochs=24)
work_dir = 'work_dirs/study_student_24e'
