# What the controls of the study change: the pair of digits with GKD that falls, see gkd_falling.py.
_base_ = '../digits/gkd_teacher_30e.py'

distill_losses = dict(gkd=dict(vertex_weight=100., edge_weight=10., spectral_weight=10.))
distill_hooks = [dict(type='DistillWeightHook', decay_from=0.25, stop=0.85)]
model = dict(distill_losses=distill_losses)
custom_hooks = distill_hooks
work_dir = 'work_dirs/study_digits_falling'
