# GKD on BCCD across families: Faster R-CNN of base width 32 teaches RetinaNet of base width 8, whose neck alone can inherit.
_base_ = './gkd_retinanet.py'

model = dict(
    teacher=dict(config='{{ fileDirname }}/teacher.py', checkpoint='work_dirs/bccd_teacher/epoch_24.pth'),
    inherit='neck')
work_dir = 'work_dirs/bccd_gkd_frcnn_retinanet'
