"""The classifier: its layout, its losses and predictions, and that it is distilled as detectors are."""
import pytest
import torch
import torch.nn.functional as F
from conftest import merge
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import nn

from mmgkd.classification import Classifier, ClsDataSample, LinearHead
from mmgkd.preprocessing import Renormalize
from mmgkd.student import inherit_weights

PREPROCESSOR = dict(type='ImgDataPreprocessor', mean=[100.] * 3, std=[50.] * 3)
TINY = dict(type='Classifier', backbone=dict(type='CifarResNet', depth=8, width=0.5),
            head=dict(type='LinearHead', num_classes=10), data_preprocessor=PREPROCESSOR)


@MODELS.register_module(force=True)
class AverageNeck(nn.Module):
    """As mmpretrain's GlobalAveragePooling: vectors, one for each map."""

    def forward(self, feats):
        return tuple(x.mean((2, 3)) for x in feats)


def build(config=TINY, seed=0):
    torch.manual_seed(seed)
    model = MODELS.build(Config(dict(model=config)).model)
    model.init_weights()
    return model


def raw_batch(count=4, side=20, seed=0):
    """What a data loader gives."""
    generator = torch.Generator().manual_seed(seed)
    samples = [ClsDataSample(metainfo=dict(sample_idx=i, img_shape=(side, side)), gt_label=torch.tensor([i % 10]))
               for i in range(count)]
    inputs = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator) for _ in range(count)]
    return dict(inputs=inputs, data_samples=samples)


def batch(model, *args, **kwargs):
    return model.data_preprocessor(raw_batch(*args, **kwargs), True)


def test_the_layout_is_mmpretrains():
    model = build()
    assert [name for name, _ in model.named_children()] == ['data_preprocessor', 'backbone', 'head']
    assert isinstance(model.head.fc, nn.Linear) and not model.with_neck
    feats = model.extract_feat(batch(model)['inputs'])
    assert [tuple(x.shape) for x in feats] == [(4, 8, 20, 20), (4, 16, 10, 10), (4, 32, 5, 5)]
    torch.testing.assert_close(model.head(feats), model.head.fc(feats[-1].mean((2, 3))))


def test_a_neck_stands_between_backbone_and_head():
    model = build(merge(TINY, dict(neck=dict(type='AverageNeck'), head=dict(in_channels=32))))
    plain = build()
    plain.load_state_dict(model.state_dict())
    inputs = batch(model)['inputs']
    assert model.with_neck and [x.dim() for x in model.extract_feat(inputs)] == [2, 2, 2]
    torch.testing.assert_close(model(inputs), plain(inputs))


def test_the_loss_is_the_mean_cross_entropy_of_the_logits():
    model = build().eval()
    data = batch(model)
    logits = model(**data)
    labels = [int(sample.gt_label) for sample in data['data_samples']]
    want = sum(-F.log_softmax(row, 0)[label].item() for row, label in zip(logits, labels, strict=True)) / 4
    losses = model(**data, mode='loss')
    assert set(losses) == {'loss_cls'}
    assert losses['loss_cls'].item() == pytest.approx(want, rel=1e-5)


def test_predictions_are_written_into_the_samples():
    model = build().eval()
    data = batch(model)
    with torch.no_grad():
        logits = model(**data)
        found = model(**data, mode='predict')
        bare = model(data['inputs'], mode='predict')
    for row, sample, other, given in zip(logits, found, bare, data['data_samples'], strict=True):
        assert sample is given and sample.sample_idx == given.sample_idx
        assert isinstance(other, BaseDataElement) and torch.equal(sample.pred_score, other.pred_score)
        torch.testing.assert_close(sample.pred_score, row.softmax(0))
        assert sample.pred_label.shape == (1,) and int(sample.pred_label) == int(row.argmax())


def test_a_step_trains_every_weight():
    model = build()
    model.parse_losses(model(**batch(model), mode='loss'))[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_scores_are_float32_under_autocast():
    model = build().eval()
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
        sample = model(**batch(model), mode='predict')[0]
    assert sample.pred_score.dtype == torch.float32 and float(sample.pred_score.sum()) == pytest.approx(1, abs=1e-5)


def test_the_head_takes_its_channels_from_the_backbone_unless_it_has_a_neck():
    assert build().head.fc.in_features == 32
    assert build(merge(TINY, dict(backbone=dict(out_indices=(0, 1))))).head.fc.in_features == 16
    with pytest.raises(TypeError, match='in_channels'):
        build(merge(TINY, dict(neck=dict(type='AverageNeck'))))


@pytest.mark.parametrize('options', [dict(in_channels=0, num_classes=10), dict(in_channels=8, num_classes=1)])
def test_an_impossible_head_is_refused(options):
    with pytest.raises(ValueError, match='in_channels must be at least 1 and num_classes at least 2'):
        LinearHead(**options)


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'loss', 'predict' or 'tensor', got 'features'"):
        build()(torch.zeros(1, 3, 8, 8), mode='features')


def test_options_are_keywords():
    with pytest.raises(TypeError):
        Classifier(TINY['backbone'], TINY['head'])
    with pytest.raises(TypeError, match='heads'):
        MODELS.build(dict(TINY, heads=dict()))


def test_a_teacher_of_other_normalisation_sees_the_same_pixels():
    student, data = build(), raw_batch()
    teacher = build(merge(TINY, dict(data_preprocessor=dict(
        mean=[129.3, 124.1, 112.4], std=[68.2, 65.4, 70.4], bgr_to_rgb=True))))
    inputs = student.data_preprocessor(raw_batch(), True)
    want = teacher.data_preprocessor(data, True)['inputs']
    got = Renormalize(student.data_preprocessor, teacher.data_preprocessor)(inputs['inputs'], inputs['data_samples'])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def distiller(**more):
    """A ResNet-14 teaches a ResNet-8, at the maps of their stages."""
    torch.manual_seed(0)
    teacher = merge(TINY, dict(backbone=dict(depth=14, width=1)))
    model = MODELS.build(Config(dict(model=dict(dict(
        type='Distiller', student=TINY, teacher=dict(config=teacher, checkpoint=None, allow_random=True),
        distill_losses=dict(gkd=dict(type='ChannelGraphLoss', num_eigenvectors=4))), **more))).model)
    model.init_weights()
    return model.train()


def test_the_distiller_takes_classifiers():
    model = distiller()
    losses = model(**batch(model), mode='loss')
    assert {'loss_cls', 'loss_gkd_vertex', 'loss_gkd_edge', 'loss_gkd_spectral'} <= set(losses)
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(p.grad is None for p in model.teacher.detector.parameters())
    assert [p.shape[1] for p in model.connector.parameters() if p.dim() == 4] == [8, 16, 32]


def test_a_distilled_student_loads_as_a_plain_classifier(tmp_path):
    model = distiller()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'student.pth')
    plain = build(seed=1).eval()
    state = torch.load(tmp_path / 'student.pth', weights_only=True)['state_dict']
    result = plain.load_state_dict(state, strict=False)
    assert not result.missing_keys
    assert all(key.startswith(('connector.', 'distill_losses.')) for key in result.unexpected_keys)
    inputs = batch(plain)['inputs']
    assert torch.equal(plain(inputs), model.eval()(inputs))


def test_a_student_inherits_the_teachers_head():
    student, teacher = build(), build(merge(TINY, dict(backbone=dict(depth=14))), seed=1)
    assert inherit_weights(student, teacher.state_dict(), ('head',)) == 2
    assert torch.equal(student.head.fc.weight, teacher.head.fc.weight)
