# The teacher of the demo, trained three times as long: to where five epochs more give less than a point (docs/results.md).
_base_ = './teacher.py'

train_cfg = dict(max_epochs=30, val_interval=5)
work_dir = 'work_dirs/digits_teacher_30e'
