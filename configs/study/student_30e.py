# The student of the demo, trained as long as its teacher: a control teaches with it, and shows what longer training gives.
_base_ = '../digits/student.py'

train_cfg = dict(max_epochs=30, val_interval=5)
work_dir = 'work_dirs/study_student_30e'
