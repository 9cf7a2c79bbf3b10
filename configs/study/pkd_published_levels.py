# PKD on the levels that it was published on, P2 to P5.
_base_ = '../digits/gkd_teacher_30e.py'

model = dict(
    connector=dict(type='NeckConnector', student_levels=[0, 1, 2, 3], teacher_levels=[0, 1, 2, 3]),
    distill_losses=dict(_delete_=True, pkd=dict(type='PKDLoss', loss_weight=6.)))
work_dir = 'work_dirs/study_pkd_published_levels'
