# GKD on DeepPCB: base width 32 teaches base width 16.
_base_ = './gkd.py'

model = dict(student=dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128])))
work_dir = 'work_dirs/deeppcb_gkd_w16'
