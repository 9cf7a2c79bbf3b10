"""The teacher sees what its own preprocessor would have made of the raw images."""
import pytest
import torch
from conftest import build, distiller, neck, raw_batch, teacher_file, tiny
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.logging import MessageHub

from mmgkd.preprocessing import Renormalize

RGB = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1., 1., 1.], bgr_to_rgb=False)
RAW = dict(pad_value=114)
KINDS = dict(
    rgb=RGB, caffe=CAFFE, raw=RAW, raw_rgb=dict(bgr_to_rgb=True), grey=dict(mean=[127.5], std=[50.]),
    rgb_padded=dict(RGB, pad_value=.5), reversed=dict(CAFFE, rgb_to_bgr=True))


def preprocessor(**kwargs):
    return DetDataPreprocessor(pad_size_divisor=32, **kwargs)


def process(module, *shapes, training=True):
    """Inputs and samples; the same raw images for every preprocessor."""
    batch = module(raw_batch(shapes), training)
    return batch['inputs'], batch['data_samples']


@pytest.mark.parametrize('teacher', KINDS)
@pytest.mark.parametrize('student', KINDS)
def test_equal_to_the_teachers_own_preprocessing(student, teacher):
    shapes = (64, 64), (40, 90), (33, 50)
    student, teacher = preprocessor(**KINDS[student]), preprocessor(**KINDS[teacher])
    inputs, samples = process(student, *shapes)
    expected, _ = process(teacher, *shapes)
    before = inputs.clone()
    torch.testing.assert_close(Renormalize(student, teacher)(inputs, samples), expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(inputs, before)  # the student's batch is not written to


def test_equal_normalisation_passes_the_batch_itself():
    inputs, samples = process(preprocessor(**RGB), (64, 40))
    assert Renormalize(preprocessor(**RGB), preprocessor(**RGB))(inputs, samples) is inputs


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_one_batch_of_another_dtype_leaves_no_trace(dtype):
    convert = Renormalize(preprocessor(**RGB), preprocessor(**CAFFE))
    inputs, samples = process(preprocessor(**RGB), (64, 40))
    expected = convert(inputs, samples)
    assert convert(inputs.to(dtype), samples).dtype == dtype
    torch.testing.assert_close(convert(inputs, samples), expected, rtol=0, atol=1e-5)


def test_mmpretrains_way_of_saying_the_order_of_channels():
    """Its preprocessor calls it ``to_rgb``."""
    theirs = torch.nn.Module()
    theirs.mean, theirs.std = (torch.tensor(CAFFE[key]).view(3, 1, 1) for key in ('mean', 'std'))
    theirs.to_rgb = False
    inputs, samples = process(preprocessor(**RGB), (64, 64))
    expected, _ = process(preprocessor(**CAFFE), (64, 64))
    found = Renormalize(preprocessor(**RGB), theirs)(inputs, samples)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('role', [0, 1])
def test_unknown_normalisation_is_refused(role):
    pair = [preprocessor(**RGB), preprocessor(**RGB)]
    pair[role] = torch.nn.Identity()
    with pytest.raises(ValueError, match='data preprocessor Identity is unknown.*DetDataPreprocessor'):
        Renormalize(*pair)


@pytest.mark.parametrize('kind', ['rgb', 'caffe', 'raw'])
def test_the_teachers_maps_are_those_of_its_own_pipeline(tmp_path, kind):
    """Through the distiller, from raw images, with padding, against the whole teacher as mmdet runs it."""
    config = tiny(**neck(24))
    config['data_preprocessor'] = dict(type='DetDataPreprocessor', pad_size_divisor=32, **KINDS[kind])
    path = teacher_file(tmp_path / 'teacher.pth', config)
    alone = build(config).eval()
    alone.load_state_dict(torch.load(path)['state_dict'])
    model = distiller(teacher=dict(config=config, checkpoint=path, allow_random=False))
    shapes = (64, 96), (40, 50)
    maps = model.teacher(*process(model.data_preprocessor, *shapes))
    with torch.no_grad():
        expected = alone.extract_feat(process(alone.data_preprocessor, *shapes)[0])
    for a, b in zip(maps, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_a_batch_that_the_student_resizes_reaches_the_teacher_resized():
    """Batch augments change the extent of the images: the padding must follow."""
    student = tiny()
    resize = dict(type='BatchSyncRandomResize', random_size_range=(128, 128), size_divisor=32, interval=1)
    student['data_preprocessor'] = dict(
        type='DetDataPreprocessor', pad_size_divisor=32, batch_augments=[resize], **RAW)
    model = distiller(student, dict(config=tiny()))
    MessageHub.get_current_instance().update_info('iter', 0)  # as a runner does: the augment counts by it
    process(model.data_preprocessor, (64, 64), (32, 32))  # draws the next size
    inputs, samples = process(model.data_preprocessor, (64, 64), (32, 32))
    assert inputs.shape[2:] == (128, 128)
    seen = model.teacher._renormalize(inputs, samples)
    assert not seen[1, :, 64:].any() and not seen[1, :, :, 64:].any() and seen[1, :, :64, :64].all()
