"""The steps of the pipeline and the accuracy, compared with what hands and loops make of them."""
import numpy as np
import pytest
import torch
from mmdet.registry import METRICS, MODELS, TRANSFORMS
from mmengine.dataset import pseudo_collate

from mmgkd.classification import Accuracy, ClsDataSample, PackClsInputs, PadRandomCrop, stack_images


def image(height=6, width=5, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)


# ---- transforms

@pytest.mark.parametrize('mode', ['constant', 'reflect'])
def test_crops_are_windows_of_the_padded_image(mode):
    img, crop = image(), PadRandomCrop(padding=2, pad_mode=mode)

    def pixel(y, x):
        if mode == 'constant':
            return img[y, x] if 0 <= y < 6 and 0 <= x < 5 else np.zeros(3, np.uint8)
        return img[min(abs(y), 10 - y), min(abs(x), 8 - x)]

    windows = {np.stack([[pixel(y + top, x + left) for x in range(5)] for y in range(6)]).tobytes(): (top, left)
               for top in range(-2, 3) for left in range(-2, 3)}
    np.random.seed(0)
    seen = {windows[crop(dict(img=img))['img'].tobytes()] for _ in range(500)}
    assert seen == set(windows.values())


def test_without_padding_nothing_is_cut():
    assert np.array_equal(PadRandomCrop(padding=0)(dict(img=image()))['img'], image())


@pytest.mark.parametrize('options', [dict(padding=-1), dict(pad_mode='wrap')])
def test_impossible_crops_are_refused(options):
    with pytest.raises(ValueError, match='padding must be at least 0'):
        PadRandomCrop(**options)


def test_packing_keeps_pixels_label_and_place():
    results = PackClsInputs()(dict(img=image(), gt_label=7, sample_idx=3, other='dropped'))
    assert set(results) == {'inputs', 'data_samples'}
    assert results['inputs'].dtype == torch.uint8 and results['inputs'].is_contiguous()
    assert np.array_equal(results['inputs'].permute(1, 2, 0).numpy(), image())
    sample = results['data_samples']
    assert isinstance(sample, ClsDataSample) and torch.equal(sample.gt_label, torch.tensor([7]))
    assert sample.metainfo == dict(sample_idx=3, img_shape=(6, 5))


def test_an_image_without_a_label_can_be_packed():
    assert 'gt_label' not in PackClsInputs()(dict(img=image()))['data_samples']


def test_flips_reach_the_packed_image():
    flip = TRANSFORMS.build(dict(type='RandomFlip', prob=1.))
    results = PackClsInputs()(flip(dict(img=image(), gt_label=0)))
    assert np.array_equal(results['inputs'].permute(1, 2, 0).numpy(), image()[:, ::-1])
    assert results['data_samples'].flip


def test_transforms_print_their_options():
    assert repr(PadRandomCrop(padding=2)) == "PadRandomCrop(padding=2, pad_mode='constant')"
    assert 'sample_idx' in repr(PackClsInputs())


def test_a_stacked_batch_is_preprocessed_like_a_list():
    items = [PackClsInputs()(dict(img=image(seed=i), gt_label=i, sample_idx=i)) for i in range(3)]
    preprocessor = MODELS.build(dict(type='ImgDataPreprocessor', mean=[100., 90., 80.], std=[50.] * 3, bgr_to_rgb=True))
    stacked, listed = preprocessor(stack_images(items)), preprocessor(pseudo_collate(items))
    assert torch.equal(stacked['inputs'], listed['inputs'])
    for got, want in zip(stacked['data_samples'], listed['data_samples'], strict=True):
        assert (got.gt_label, got.metainfo) == (want.gt_label, want.metainfo)


# ---- accuracy

def measure(scores, labels, **options):
    metric = Accuracy(**options)
    metric.process({}, [dict(pred_score=torch.tensor(row), gt_label=torch.tensor([label]))
                        for row, label in zip(scores, labels, strict=True)])
    return metric.evaluate(len(labels))


def test_accuracy_by_hand():
    scores = [[.5, .2, .3], [.1, .7, .2], [.3, .6, .1], [.2, .3, .5]]
    found = measure(scores, [0, 2, 2, 2], topk=(1, 2))
    assert found == {'accuracy/top1': 50., 'accuracy/top2': 75.}


def test_accuracy_agrees_with_sorting():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(200, 12, generator=generator), torch.randint(0, 12, (200,), generator=generator)
    found = measure(scores.tolist(), labels.tolist(), topk=(1, 3, 5))
    for k in (1, 3, 5):
        right = sum(int(label) in sorted(range(12), key=lambda c, row=row: -row[c])[:k]
                    for row, label in zip(scores.tolist(), labels, strict=True))
        assert found[f'accuracy/top{k}'] == pytest.approx(right / 2)


def test_few_classes_give_no_nan():
    assert measure([[.9, .1], [.9, .1]], [0, 1]) == {'accuracy/top1': 50., 'accuracy/top5': 100.}


def test_a_network_that_has_come_to_nothing_is_wrong():
    nan = float('nan')
    found = measure([[nan] * 6, [.1, nan, 0, 0, 0, 0], [0.] * 6], [0, 0, 3])
    assert found['accuracy/top1'] == 0
    assert found['accuracy/top5'] == pytest.approx(100 / 3), 'of equal scores the fourth is among five'


def test_ties_are_what_argmax_takes():
    scores = torch.tensor([[.4, .4, .2], [.4, .4, .2]])
    labels = [int(row.argmax()) for row in scores]
    assert measure(scores.tolist(), labels, topk=(1,)) == {'accuracy/top1': 100.}
    assert measure(scores.tolist(), [1, 1], topk=(1,)) == {'accuracy/top1': 0.}


def test_impossible_metrics_are_refused():
    for topk in ((), (0, 1)):
        with pytest.raises(ValueError, match='numbers of at least 1'):
            METRICS.build(dict(type='Accuracy', topk=topk))
    with pytest.raises(ValueError, match='data set is empty'):
        Accuracy().compute_metrics([])


def test_the_prefix_can_be_chosen():
    assert measure([[.9, .1]], [0], topk=(1,), prefix='blurred') == {'blurred/top1': 100.}
