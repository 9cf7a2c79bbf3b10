# FGD on the levels that it was published on, P2 to P5.
_base_ = '../digits/gkd_teacher_30e.py'

model = dict(
    connector=dict(type='NeckConnector', student_levels=[0, 1, 2, 3], teacher_levels=[0, 1, 2, 3]),
    distill_losses=dict(_delete_=True, fgd=dict(
        type='FGDLoss', foreground_weight=5e-5, background_weight=2.5e-5, attention_weight=5e-5, relation_weight=5e-7,
        temperature=0.5)))
work_dir = 'work_dirs/study_fgd_published_levels'
