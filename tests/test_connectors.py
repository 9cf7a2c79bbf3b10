"""Making the student's maps fit the teacher's."""
import pytest
import torch
from conftest import distiller, losses, neck, tiny, total

from mmgkd import NeckConnector

SHAPES = [(16, 16, 16), (16, 8, 8), (16, 4, 4)]
WIDE = [(32, h, w) for _, h, w in SHAPES]


def connector(student=SHAPES, teacher=SHAPES, **kwargs):
    return NeckConnector(student_shapes=student, teacher_shapes=teacher, **kwargs)


def maps(shapes, n=2):
    return [torch.randn(n, *shape, generator=torch.Generator().manual_seed(i))
            for i, shape in enumerate(shapes)]


def test_equal_shapes_pass_untouched_without_parameters():
    model, student, teacher = connector(), maps(SHAPES), maps(SHAPES)
    out = model(student, teacher)
    assert not list(model.parameters())
    assert all(a is b for a, b in zip([*out[0], *out[1]], [*student, *teacher], strict=True))


def test_other_channels_get_a_linear_1x1_convolution_each():
    model, student, teacher = connector(teacher=WIDE), maps(SHAPES), maps(WIDE)
    out, same = model(student, teacher)
    assert all(a is b for a, b in zip(same, teacher, strict=True))
    assert len({id(p) for p in model.parameters()}) == 6  # weight and bias, none shared
    for x, y, layer in zip(student, out, model.projections, strict=True):
        weight, bias = layer.conv.weight, layer.conv.bias
        assert weight.shape == (32, 16, 1, 1)
        expected = torch.einsum('oi,nihw->nohw', weight[..., 0, 0], x) + bias[:, None, None]
        torch.testing.assert_close(y, expected)
    assert any((y < 0).any() for y in out)  # no activation


def test_only_levels_that_differ_are_projected():
    model = connector(teacher=[SHAPES[0], WIDE[1], SHAPES[2]])
    assert [bool(list(layer.parameters())) for layer in model.projections] == [False, True, False]


def test_norm():
    model = connector(teacher=WIDE, norm_cfg=dict(type='BN')).train()
    out, _ = model(maps(SHAPES), maps(WIDE))
    assert all(layer.conv.bias is None for layer in model.projections)
    for y in out:
        torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(32), atol=1e-5, rtol=0)


def test_levels_are_chosen_and_paired_in_order():
    student, teacher = maps(SHAPES), maps(SHAPES)
    out = connector(student_levels=[1, 2], teacher_levels=[1, 2])(student, teacher)
    assert [x is y for x, y in zip([*out[0], *out[1]], student[1:] + teacher[1:], strict=True)] == [True] * 4
    offset = connector(student=SHAPES, teacher=SHAPES[1:], student_levels=[1, 2])
    assert offset(student, teacher[1:])[0][0] is student[1]


def test_resize_is_bilinear_to_the_teachers_size():
    teacher = [(16, 2 * h, 2 * w) for _, h, w in SHAPES]
    out, _ = connector(teacher=teacher, resize=True)(maps(SHAPES), maps(teacher))
    assert [x.shape[1:] for x in out] == teacher
    expected = torch.nn.functional.interpolate(maps(SHAPES)[0], scale_factor=2, mode='bilinear')
    torch.testing.assert_close(out[0], expected)


@pytest.mark.parametrize('student, teacher, advice', [
    (SHAPES, SHAPES[:2], 'student_levels'), (SHAPES[:2], SHAPES, 'student_levels'),
    (SHAPES[:2], SHAPES[1:], 'resize=True')], ids=['more', 'fewer', 'size'])
def test_mismatch_names_both_sides_and_a_way_out(student, teacher, advice):
    with pytest.raises(ValueError) as error:
        connector(student, teacher)
    for shapes, side in ((student, 'student'), (teacher, 'teacher')):
        assert f'{side}: {len(shapes)} levels, {"x".join(map(str, shapes[0]))}' in str(error.value)
    assert advice in str(error.value)


@pytest.mark.parametrize('kwargs', [
    dict(student_levels=[3]), dict(student_levels=[-1]), dict(teacher_levels=[]), dict(teacher_levels=['0'])])
def test_levels_must_exist(kwargs):
    with pytest.raises(ValueError, match=f'{next(iter(kwargs))} must be indices from 0 to 2'):
        connector(**kwargs)


def test_sizes_that_differ_for_one_image_only_are_an_error():
    student = maps(SHAPES)
    student[1] = student[1][:, :, :7]
    with pytest.raises(ValueError, match='level 1 .*resize=True'):
        connector()(student, maps(SHAPES))


@pytest.mark.parametrize('student, teacher', [
    (tiny(), tiny(**neck(24))), (tiny('retinanet'), tiny('fcos', neck=dict(out_channels=24)))],
    ids=['faster_rcnn', 'retinanet-fcos'])
def test_the_distiller_infers_channels(student, teacher):
    model = distiller(student, dict(config=teacher))
    assert [layer.conv.weight.shape[:2] for layer in model.connector.projections] == [(24, 16)] * 5
    total(model, losses(model)).backward()
    assert all(p.grad is not None for p in model.connector.parameters())
    fine = model.connector.projections[:3]  # of more than one cell
    assert all(layer.conv.weight.grad.any() for layer in fine)


def test_the_distiller_takes_a_choice_of_levels():
    """RetinaNet's neck begins one level higher than Faster R-CNN's, at half its resolution."""
    levels = dict(type='NeckConnector', student_levels=[0, 1, 2], teacher_levels=[1, 2, 3])
    teacher = dict(config=tiny())
    with pytest.raises(ValueError, match='student: 5 levels, 16x16x16.*\n.*teacher: 5 levels, 16x32x32'):
        distiller(tiny('retinanet'), teacher)
    model = distiller(tiny('retinanet'), teacher, connector=levels)
    assert len(losses(model)['loss_gkd_vertex']) == 3


def test_a_connector_without_type_is_the_default_one():
    model = distiller(connector=dict(student_levels=[0], teacher_levels=[0]))
    assert len(losses(model)['loss_gkd_vertex']) == 1


def test_where_no_loss_compares_cells_maps_stay_as_they_are():
    other = [(8, 16, 16), (16, 5, 5)]
    model, student, teacher = connector(SHAPES[:2], other, same_shape=False), maps(SHAPES[:2]), maps(other)
    out = model(student, teacher)
    assert not list(model.parameters()) and model.shapes == (SHAPES[:2], other)
    assert all(a is b for a, b in zip([*out[0], *out[1]], [*student, *teacher], strict=True))


def test_the_shapes_it_gives():
    assert connector(teacher=WIDE).shapes == (WIDE, WIDE)
    chosen = connector(teacher=WIDE, student_levels=[1, 2], teacher_levels=[1, 2])
    assert chosen.shapes == (WIDE[1:], WIDE[1:])
