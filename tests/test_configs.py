"""Every config that is shipped builds; the public ones train at full size, and through the tools."""
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmdet.datasets import VOCDataset
from mmdet.registry import DATASETS, MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config

from mmgkd.annotations import categories, object_names, unknown_names
from mmgkd.detectors import model_config
from mmgkd.losses import PKDLoss
from mmgkd.preflight import InputError, check_testing, check_training

sys.path.append(str(ROOT / 'tools'))  # where the controls of the study are
CONFIGS = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'configs').rglob('*.py') if '_base_' not in p.parts)
CLASSIFIERS = ('cifar10', 'cifar100', 'digits_cls')  # folders, see tests/classification
METHODS = [f'configs/study/{name}.py' for name in ('gkd_falling', 'gkd_warm_up', 'pkd_gkd')]  # of no pair
DETECTORS = [path for path in CONFIGS if Path(path).parts[1] not in CLASSIFIERS and path not in METHODS]
FULL = ['configs/gkd_frcnn_r50_coco.py', 'configs/gkd_frcnn_r50_voc.py']


def load(path):
    """A config whose models start from random weights."""
    cfg = Config.fromfile(ROOT / path)
    student = model_config(cfg.model.get('student', cfg.model))
    student.backbone.init_cfg = None
    if cfg.model.type == 'Distiller':
        cfg.model.student = student
        cfg.model.teacher.update(checkpoint=None, allow_random=True)
        cfg.model.inherit = None  # there is nothing to inherit from random weights
    return cfg


def student_config(digits):
    """Whole, with its files in place."""
    cfg = load(str(ROOT / 'configs/digits/student.py'))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = f'{digits}/'
    cfg.val_evaluator.ann_file = f'{digits}/annotations/val.json'
    return cfg


def train_step(cfg, size):
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    head = model.roi_head.bbox_head if hasattr(model, 'roi_head') else model.bbox_head
    data = model.data_preprocessor(demo_mm_inputs(1, [size], num_classes=head.num_classes), True)
    loss, logged = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    return model, logged


@pytest.mark.parametrize('path', DETECTORS)
def test_every_config_trains_a_step_at_tiny_size(path):
    model, logged = train_step(load(path), (3, 96, 128))
    distilled = 'gkd' in Path(path).stem or path.startswith('configs/study/') and 'student' not in path
    assert distilled == (type(model).__name__ == 'Distiller')
    method = re.match('fgd|pkd', Path(path).stem) or ['gkd']
    assert distilled == any(re.fullmatch(rf'loss_{method[0]}_\w+', name) for name in logged)


def test_two_methods_together_train_a_step():
    cfg, method = load('configs/bccd/gkd.py'), Config.fromfile(ROOT / 'configs/study/pkd_gkd.py')
    alone = Config.fromfile(ROOT / 'configs/_base_/gkd.py')
    cfg.model.distill_losses = method.distill_losses
    assert method.distill_losses.gkd == alone.distill_losses.gkd and method.distill_hooks == alone.distill_hooks
    assert {'loss_gkd_vertex', 'loss_pkd_correlation'} <= set(train_step(cfg, (3, 96, 128))[1])


def test_gkd_on_other_schedules_is_gkd_but_for_weights_and_schedule():
    falling, gkd = (Config.fromfile(ROOT / f'configs/{file}.py') for file in ('study/gkd_falling', '_base_/gkd'))
    weights = {name: value for name, value in falling.distill_losses.gkd.items() if name.endswith('_weight')}
    assert falling.distill_losses.gkd | {name: 4 * value for name, value in weights.items()} == gkd.distill_losses.gkd
    assert falling.distill_hooks[0].type == 'DistillWeightHook' and gkd.distill_hooks == []
    warmed = Config.fromfile(ROOT / 'configs/study/gkd_warm_up.py')
    assert warmed.distill_losses == gkd.distill_losses and warmed.distill_hooks[0].warmup == 0.1


def test_others_on_their_published_levels_have_the_weights_of_their_files():
    for name in ('pkd', 'fgd'):
        cfg = Config.fromfile(ROOT / f'configs/study/{name}_published_levels.py')
        assert cfg.model.inherit and cfg.custom_hooks == []
        assert cfg.model.distill_losses == Config.fromfile(ROOT / f'configs/_base_/{name}.py').distill_losses


@pytest.mark.parametrize('path', FULL)
def test_the_public_configs_train_a_step_at_full_size(path):
    model, logged = train_step(load(path), (3, 800, 1333))
    assert {'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox'} <= set(logged)
    assert model.student.backbone.depth == 50 and model.teacher.detector.backbone.depth == 101


@pytest.mark.parametrize('path', FULL)
def test_a_pair_takes_about_ten_lines(path):
    lines = [x for x in (ROOT / path).read_text().splitlines() if x.strip() and not x.startswith('#')]
    assert len(lines) <= 12


def test_the_method_file_names_no_pair():
    cfg = Config.fromfile(ROOT / 'configs/_base_/gkd.py')
    assert not {'model', 'train_dataloader', 'teacher', 'student'} & set(cfg.keys())


def test_the_datasets_of_the_small_configs_read_what_make_digits_writes(digits):
    cfg = load('configs/digits/student.py')
    for loader in ('train_dataloader', 'val_dataloader'):
        cfg[loader].dataset.data_root = str(digits)
        dataset = DATASETS.build(cfg[loader].dataset)
        assert len(dataset) > 0 and dataset[0]['inputs'].shape[0] == 3
    for evaluator in ('val_evaluator', 'test_evaluator'):
        cfg[evaluator].ann_file = str(digits / 'annotations/val.json')
    check_training(cfg)


def test_no_two_configs_share_a_work_folder_and_each_pair_finds_its_teacher():
    folders = {}
    for path in sorted(set(CONFIGS) - set(METHODS)):
        folder = Config.fromfile(ROOT / path).get('work_dir') or f'work_dirs/{Path(path).stem}'
        assert folders.setdefault(folder, path) == path
    pairs = [path for path in DETECTORS if path.split('/')[1] in ('bccd', 'deeppcb', 'digits') and 'gkd' in path]
    assert len(pairs) == 12
    for path in pairs:
        teacher = Config.fromfile(ROOT / path).model.teacher
        trained = Config.fromfile(teacher.config)
        assert teacher.checkpoint == f'{trained.work_dir}/epoch_{trained.train_cfg.max_epochs}.pth'


def test_a_text_detectors_classes_are_not_counted(digits, monkeypatch):
    """Its heads have as many outputs as a text has tokens."""
    cfg = student_config(digits)
    cfg.model.roi_head.bbox_head.num_classes = 256
    with pytest.raises(InputError, match='num_classes is 256: make them equal'):
        check_training(cfg)
    cfg.model.language_model = dict(type='BertModel')
    check_training(cfg)


@pytest.mark.parametrize('count', [10, 3])
def test_classes_may_stand_in_a_file(digits, tmp_path, count):
    (tmp_path / 'classes.txt').write_text(''.join(f'{i}\n' for i in range(count)))
    cfg = student_config(digits)
    cfg.train_dataloader.dataset.metainfo = dict(classes=str(tmp_path / 'classes.txt'))
    if count == 10:
        return check_training(cfg)
    with pytest.raises(InputError, match=r'has 3 classes \(0, 1, 2, ...\), but .* is 10'):
        check_training(cfg)


def test_files_that_a_backend_finds_are_left_to_it(digits):
    cfg = student_config(digits)
    cfg.train_dataloader.dataset.data_root = 'data/elsewhere/'
    with pytest.raises(InputError, match='data/elsewhere'):
        check_training(cfg)
    stored = dict(backend='petrel', path_mapping={'data/': 's3://bucket/'})
    cfg.train_dataloader.dataset.backend_args = stored
    check_training(cfg)
    cfg.val_evaluator.ann_file = 'data/elsewhere/annotations/val.json'
    with pytest.raises(InputError, match='data/elsewhere'):
        check_training(cfg)
    cfg.val_evaluator.backend_args = stored
    check_training(cfg)


def test_checkpoints_of_schemes_that_mmengine_knows_are_left_to_it(digits):
    cfg = student_config(digits)
    for cfg.load_from in ('s3://bucket/x.pth', 'open-mmlab://resnet50'):
        check_training(cfg)


def test_types_may_be_classes(digits):
    """As pure Python configs give them."""
    cfg = student_config(digits)
    cfg.train_dataloader.dataset.type = DATASETS.get('CocoDataset')
    check_training(cfg)
    cfg.model.roi_head.bbox_head.num_classes = 7
    with pytest.raises(InputError, match='CocoDataset has 10 classes'):
        check_training(cfg)


def test_what_is_inherited_is_not_overwritten(digits, tmp_path):
    cfg = student_config(digits)
    cfg.load_from = str(tmp_path / 'epoch_1.pth')
    torch.save(dict(state_dict=dict(a=torch.zeros(1))), cfg.load_from)
    cfg.model = dict(type='Distiller', student=cfg.model, inherit='neck+head', distill_losses=dict(
        gkd=dict(type='ChannelGraphLoss')),
                     teacher=dict(config=str(ROOT / 'configs/digits/teacher.py'), checkpoint=cfg.load_from))
    with pytest.raises(InputError, match="would overwrite what model.inherit='neck.head' copies"):
        check_training(cfg)
    cfg.resume = True
    check_training(cfg)


def test_a_teacher_with_the_classes_in_another_order_is_refused_where_that_matters(digits, tmp_path):
    cfg, path = student_config(digits), tmp_path / 'epoch_1.pth'
    cfg.model = dict(type='Distiller', student=cfg.model, inherit='neck+head', distill_losses=dict(
        gkd=dict(type='ChannelGraphLoss')), teacher=dict(
            config=str(ROOT / 'configs/digits/teacher.py'), checkpoint=str(path)))

    def save(names, key='classes'):
        torch.save(dict(meta=dict(dataset_meta={key: names}), state_dict=dict(a=torch.zeros(1))), path)

    save(tuple('1023456789'), 'CLASSES')  # as mmdet 3.0 wrote them
    with pytest.raises(InputError, match="epoch_1.pth' has the student's classes in another order, '0' as number 2 of "
                                         '10 instead of 1. Its head would be inherited'):
        check_training(cfg)
    cfg.model.inherit = 'neck'
    check_training(cfg)
    cfg.model.distill_losses = dict(kd=dict(type='KLLoss'))
    with pytest.raises(InputError, match='its predictions distilled, for the wrong ones'):
        check_training(cfg)
    cfg.model.distill_losses = dict(hkd=dict(type='HolisticGraphLoss', memory='queue', edges='predictions'))
    check_training(cfg)  # each network's predictions make a graph of its own
    cfg.model.inherit = 'neck+head'
    cfg.train_dataloader.dataset.metainfo = cfg.val_dataloader.dataset.metainfo = dict(classes=tuple('1023456789'))
    with pytest.raises(InputError, match="train_dataloader: mmdet numbers classes in the order of the categories in "
                                         ".*train.json .* what is '0' would be called '1'"):
        check_training(cfg)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        whole = json.loads((digits / loader.dataset.ann_file).read_text())
        whole['categories'].insert(0, whole['categories'].pop(1))
        loader.dataset.ann_file = str(tmp_path / loader.dataset.ann_file.replace('/', '_'))
        Path(loader.dataset.ann_file).write_text(json.dumps(whole))
    check_training(cfg)  # the same order
    for names in (tuple('abcdefghij'), tuple('0123'), None, 1):  # others, fewer, unknown
        save(names)
        check_training(cfg)
    path.write_bytes(b'x')
    with pytest.raises(InputError, match='teacher: checkpoint .* cannot be read'):
        check_training(cfg)


@MODELS.register_module()
class HeldDown(PKDLoss):
    """One of one's own, whose rule is no option."""

    gradient_rule = 'full'


def test_a_gradient_rule_needs_its_hook(digits, tmp_path):
    cfg = student_config(digits)
    torch.save(dict(state_dict=dict(a=torch.zeros(1))), tmp_path / 'teacher.pth')
    cfg.model = dict(type='Distiller', student=cfg.model, teacher=dict(
        config=str(ROOT / 'configs/digits/teacher.py'), checkpoint=str(tmp_path / 'teacher.pth')),
        distill_losses=dict(own=dict(type='HeldDown')))
    with pytest.raises(InputError, match="own: its gradient_rule .*add dict.type='PrepareLossesHook'"):
        check_training(cfg)
    cfg.model.distill_losses = dict(mhgd=dict(type='AttentionGraphLoss', gradient_rule='feature'))
    with pytest.raises(InputError, match="mhgd: its gradient_rule .*add dict.type='PrepareLossesHook'"):
        check_training(cfg)
    cfg.custom_hooks = [dict(type='mmgkd.PrepareLossesHook')]
    check_training(cfg)


def test_a_student_may_import_modules_of_its_own(tmp_path):
    """Beside any method: MMEngine lets no two bases of a config define one key."""
    (tmp_path / 'student.py').write_text(
        f"_base_ = {str(ROOT / 'configs/digits/student.py')!r}\ncustom_imports = dict(imports=['json'])\n")
    for method in (ROOT / 'configs/_base_').rglob('*.py'):
        if 'distill_losses' not in method.read_text():
            continue
        (tmp_path / 'pair.py').write_text(
            f"_base_ = ['./student.py', {str(method)!r}]\n"
            "custom_imports = dict(imports=[*_base_.custom_imports.imports, 'mmgkd'])\n")
        assert Config.fromfile(tmp_path / 'pair.py').custom_imports.imports == ['json', 'mmgkd'], method


def test_a_student_keeps_its_own_hooks(tmp_path):
    """By the line that the README's template and the configs have."""
    text = (ROOT / 'README.md').read_text()
    line = "custom_hooks = [*_base_.get('custom_hooks', []), *_base_.distill_hooks]"
    configs = [path for path in (ROOT / 'configs').rglob('*.py') if 'custom_hooks' in path.read_text()
               and path.parent.name != 'study']
    assert line in text and len(configs) > 10 and all(line in path.read_text() for path in configs)
    (tmp_path / 'pair.py').write_text(
        f"_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', {str(ROOT / 'configs/_base_/hkd.py')!r}]\n{line}\n")
    assert [hook.type for hook in Config.fromfile(tmp_path / 'pair.py').custom_hooks] == [
        'EMAHook', 'PipelineSwitchHook', 'DistillWeightHook']


def test_the_metrics_of_several_data_sets_are_checked(digits):
    cfg = load(str(ROOT / 'configs/digits/student.py'))
    cfg.test_dataloader.dataset.data_root = f'{digits}/'
    cfg.test_evaluator = dict(type='MultiDatasetEvaluator', dataset_prefixes=['a'], metrics=[
        dict(type='CocoMetric', ann_file='nowhere.json')])
    with pytest.raises(InputError, match="test_evaluator: no 'nowhere.json' .ann_file of CocoMetric"):
        check_testing(cfg)


@pytest.mark.parametrize(('change', 'said'), [
    (dict(backbone=dict(type='ResNet')), r'write model=dict\(_delete_=True'),
    (dict(student=None), 'model has no student, such as student=_base_.model'),
    (dict(distill_losses=None), 'model has no distill_losses'),
    (dict(teacher='teacher.py'), r'model.teacher must be dict\(config=..., checkpoint=...\)'),
    (dict(teacher=dict(config='x.py')), r'model.teacher must be dict\(config=..., checkpoint=...\)'),
    (dict(inherit=['neck', 'head']), "inherit must be text, such as 'neck.head'"),
    (dict(distill_losses=[1]), 'distill_losses must be a dict with a name for each loss'),
    (dict(distill_losses=dict(gdk=dict(vertex_weight=3))), 'distill_losses.gdk must be a dict with a type'),
    (dict(distill_losses=dict(gkd=dict(type='ChannelGraphLoss', vertex_wieght=3))),
     'distill_losses.gkd: .*vertex_wieght.*Its options are vertex_weight, edge_weight'),
    (dict(distill_losses=dict(gkd=dict(type='ChannelGraphLoss', edge_weight=None))), 'weights must be numbers'),
    (dict(distill_losses=dict(gkd=dict(type='ChanelGraphLoss'))), 'distill_losses.gkd: .*ChanelGraphLoss is not in')])
def test_mistakes_in_a_distillation_are_found_before_its_data_are_read(change, said):
    cfg = load('configs/digits/gkd.py')
    for name, value in change.items():
        if value is None:
            del cfg.model[name]
        else:
            cfg.model[name] = value
    with pytest.raises(InputError, match=said):
        check_training(cfg)


def test_overrides_that_replace_a_part_may_be_read_twice():
    source = dict(config=str(ROOT / 'configs/bccd/retinanet_teacher.py'), overrides=dict(
        backbone=dict(_delete_=True, type='MobileNetV2', widen_factor=.25, out_indices=(1, 2, 4, 6))))
    assert model_config(source) == model_config(source)
    assert 'depth' not in model_config(source).backbone


def test_classes_are_those_of_the_annotations(digits, tmp_path):
    cfg = student_config(digits)
    cfg.train_dataloader.dataset.metainfo = dict(classes=tuple('012345678x'))
    with pytest.raises(InputError, match="train.json has no class 'x', one of 10 .*categories are 0, 1, 2, 3, 4, ..."):
        check_training(cfg)
    names = [dict(id=i, name=name) for i, name in enumerate('ab')]
    for text, found in [(json.dumps(dict(categories=names, images=[dict(file_name='x' * 3000000)])), ['a', 'b']),
                        (json.dumps(dict(images=[dict(file_name='x' * 3000000)], categories=names)), ['a', 'b']),
                        (json.dumps(dict(images=[])), None), ('', None), ('{"categories": [1]}', None)]:
        (tmp_path / 'x.json').write_text(text)
        assert categories(str(tmp_path / 'x.json')) == found
    assert categories(str(tmp_path)) is None


def test_classes_are_those_of_a_voc_data_set_of_ones_own(tmp_path):
    (tmp_path / 'Annotations').mkdir()
    objects = [['dust']] * 251 + [['cell', 'dust'], ['Platelet']]  # sorted, as many a list is
    for image, names in enumerate(objects):
        text = ''.join(f'<object><name>{name}</name></object>' for name in names)
        (tmp_path / f'Annotations/{image}.xml').write_text(f'<annotation>{text}</annotation>')
    (tmp_path / 'train.txt').write_text(''.join(f'{image}\n' for image in range(len(objects) + 1)))  # the last has none
    listed, folder = str(tmp_path / 'train.txt'), str(tmp_path / 'Annotations')
    assert object_names(listed, folder) == ['dust', 'cell', 'Platelet'] and object_names(listed, folder, 2) == ['dust']
    part = dict(data_root=str(tmp_path), ann_file='train.txt')

    def said(*classes, kind=VOCDataset):
        return unknown_names(part, kind, classes)

    assert said('cell') is said('dust', 'ring') is None  # the one is in no image that is looked at first
    assert 'its objects are called dust, cell, Platelet; the data set\'s 2 classes are RBC, WBC' in said('RBC', 'WBC')
    assert "no object of class 'Platelets', and some called 'Platelet'" in said('cell', 'Platelets')
    assert "no object of class 'Dust', and some called 'dust'" in said('cell', 'Dust')

    class Renaming(VOCDataset):
        def _parse_instance_info(self, *args, **kwargs):
            pass

    assert said('RBC', kind=Renaming) is None  # it may call objects otherwise
    cfg = Config.fromfile(str(ROOT / 'configs/bccd/student.py'))
    cfg.train_dataloader.dataset.update(part, data_prefix=dict(sub_data_root=''))
    cfg.val_dataloader = cfg.val_evaluator = None
    with pytest.raises(InputError, match='train_dataloader: .*train.txt: its objects are called'):
        cfg.train_dataloader.dataset.metainfo = dict(classes=('RBC', 'WBC', 'ring'))
        check_training(cfg)
    (tmp_path / 'Annotations/0.xml').write_text('<annotation>')
    with pytest.raises(InputError, match='train_dataloader: .*Annotations/0.xml is no XML'):
        check_training(cfg)
