# The teacher of the demo, trained for as long as it improves.
_base_ = './teacher.py'

train_cfg = dict(max_epochs=30, val_interval=5)
work_dir = 'work_dirs/digits_teacher_30e'
