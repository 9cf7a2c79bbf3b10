"""The data sets: CIFAR as published, refused where it is missing, damaged or hostile, and the digits."""
import gzip
import os
import pickle
import sys

import numpy as np
import pytest
from cifar_files import batch, pickled, random_images, write_cifar10, write_cifar100
from mmdet.registry import DATASETS

from mmgkd.classification import CIFAR10, CIFAR100, DigitsImages
from mmgkd.classification.datasets import pickles
from mmgkd.classification.datasets.pickles import read_pickle


def own(root, split='train', kind='CIFAR100', **more):
    """A data set of files that are not the published ones."""
    return DATASETS.build(dict(type=kind, data_root=str(root), split=split, verify=False, **more))


# ---- CIFAR

@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('split', ['train', 'test'])
def test_cifar100_is_read_from_archive_or_folder(tmp_path, packed, split):
    images, labels = write_cifar100(tmp_path, packed=packed)[split]
    dataset = own(tmp_path, split)
    assert len(dataset) == len(images)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        item = dataset[i]
        assert np.array_equal(item['img'], image) and item['img'].dtype == np.uint8
        assert (item['gt_label'], item['sample_idx']) == (label, i)
    assert np.array_equal(dataset.get_gt_labels(), labels) and dataset.get_cat_ids(3) == [labels[3]]


def test_the_content_of_the_folder_alone_will_do(tmp_path):
    write_cifar100(tmp_path)
    assert len(own(tmp_path / 'cifar-100-python')) == 20


def test_cifar10_joins_its_five_files(tmp_path):
    parts = write_cifar10(tmp_path, packed=True)
    train, test = own(tmp_path, 'train', 'CIFAR10'), own(tmp_path, 'test', 'CIFAR10')
    assert np.array_equal(train.get_gt_labels(), np.concatenate([parts[f'data_batch_{i}'][1] for i in range(1, 6)]))
    assert np.array_equal(train[17]['img'], parts['data_batch_5'][0][1])
    assert np.array_equal(test[5]['img'], parts['test_batch'][0][5])


def test_the_pipeline_and_the_choice_of_images_are_mmengines(tmp_path):
    images, labels = write_cifar100(tmp_path)['train']
    dataset = own(tmp_path, indices=[4, 2], pipeline=[dict(type='PackClsInputs')])
    assert len(dataset) == 2
    item = dataset[1]
    assert np.array_equal(item['inputs'].permute(1, 2, 0).numpy(), images[2])
    assert item['data_samples'].gt_label.tolist() == [labels[2]] and item['data_samples'].sample_idx == 1


def test_classes_are_named():
    names = CIFAR100.METAINFO['classes']
    assert len(set(names)) == 100 and list(names) == sorted(names)
    assert (names[0], names[19], names[99]) == ('apple', 'cattle', 'worm')
    assert len(CIFAR10.METAINFO['classes']) == len(DigitsImages.METAINFO['classes']) == 10


def test_nothing_is_read_before_it_is_needed(tmp_path):
    dataset = own(tmp_path, lazy_init=True)
    with pytest.raises(FileNotFoundError):
        dataset.full_init()


@pytest.mark.parametrize(('kind', 'archive', 'file'), [
    ('CIFAR100', 'cifar-100-python.tar.gz', 'cifar-100-python/train'),
    ('CIFAR10', 'cifar-10-python.tar.gz', 'cifar-10-batches-py/data_batch_1')])
def test_missing_data_say_where_they_come_from(tmp_path, kind, archive, file):
    with pytest.raises(FileNotFoundError) as error:
        own(tmp_path, kind=kind)
    for part in (f"no '{tmp_path}/{archive}'", f"no '{tmp_path}/{file}'", f'https://www.cs.toronto.edu/~kriz/{archive}',
                 f'to {tmp_path}'):
        assert part in str(error.value)


def test_one_missing_file_is_named(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / 'cifar-10-batches-py/data_batch_3').unlink()
    with pytest.raises(FileNotFoundError, match='data_batch_3'):
        own(tmp_path, kind='CIFAR10')
    assert len(own(tmp_path, 'test', 'CIFAR10')) == 6


def test_other_files_than_the_published_ones_are_refused(tmp_path):
    write_cifar100(tmp_path)
    with pytest.raises(ValueError, match='its MD5 is [0-9a-f]{32}, not 16019d7e3df5f24257cddd939b257f8d.*verify=False'):
        DATASETS.build(dict(type='CIFAR100', data_root=str(tmp_path)))


@pytest.mark.parametrize('damage', [lambda x: x[:len(x) // 2], lambda x: b'no archive',
                                    lambda x: gzip.compress(b'no tar'), lambda x: b''])
def test_a_damaged_archive_is_named(tmp_path, damage):
    write_cifar100(tmp_path, packed=True)
    archive = tmp_path / 'cifar-100-python.tar.gz'
    archive.write_bytes(damage(archive.read_bytes()))
    with pytest.raises(ValueError, match=r'cifar-100-python.tar.gz cannot be read \(.*: download https'):
        own(tmp_path)


def test_an_archive_of_something_else_is_named(tmp_path):
    write_cifar10(tmp_path, packed=True)
    (tmp_path / 'cifar-10-python.tar.gz').rename(tmp_path / 'cifar-100-python.tar.gz')
    with pytest.raises(ValueError, match="cannot be read .*'cifar-100-python/train' not found"):
        own(tmp_path)


IMAGES, LABELS = random_images(4, 100)


@pytest.mark.parametrize('content', [
    batch(IMAGES, LABELS, key=b'labels'), batch(IMAGES, LABELS[:3]), batch(IMAGES, LABELS + 97),
    batch(IMAGES[:, :16], LABELS), batch(IMAGES, LABELS) | {b'fine_labels': ['cat'] * 4},
    {b'fine_labels': [0]}, {b'data': 7, b'fine_labels': [0]}])
def test_a_file_of_another_format_is_named(tmp_path, content):
    (tmp_path / 'train').write_bytes(pickled(content))
    with pytest.raises(ValueError, match=r'train is not in the format of CIFAR100: expected data, of rows of 3072 '
                                         r'bytes, and as many fine_labels from 0 to 99, found \['):
        own(tmp_path)


def test_there_are_two_splits():
    with pytest.raises(ValueError, match="DigitsImages: split must be 'train' or 'test', got 'val'"):
        DigitsImages(split='val')


def test_a_mistyped_option_is_refused(tmp_path):
    with pytest.raises(TypeError, match='verfy'):
        own(tmp_path, verfy=True)


# ---- pickles

class Hostile:
    """Its pickle creates a folder when it is read carelessly."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile_pickles(target):
    yield pickle.dumps(Hostile(os.mkdir, target), protocol=2)
    yield pickle.dumps({b'data': Hostile(os.mkdir, target)}, protocol=4)
    yield pickle.dumps({b'data': [Hostile(eval, f'__import__("os").mkdir({target!r})')]})
    yield pickle.dumps({b'data': Hostile(np.load, target)}, protocol=2)
    yield b"cnumpy.core.multiarray\n_reconstruct.__globals__\n."
    yield b'\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.'  # a dotted name
    yield b"cnumpy\nndarray\n(N}S'value'\ncos\nsystem\nstb."  # sets an attribute
    yield b"cmmgkd.classification.datasets.pickles\npickle\n."
    yield b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'__class__'\ntR."


def test_hostile_pickles_are_refused_unread(tmp_path):
    target = str(tmp_path / 'made')
    pickle.loads(next(hostile_pickles(target)))
    assert os.path.isdir(target), 'it would have worked'
    os.rmdir(target)
    for data in hostile_pickles(target):
        with pytest.raises(ValueError, match=r'it names \S+, and pickled objects can run any code'):
            read_pickle(data)
        assert not os.path.exists(target)


def test_a_hostile_file_is_refused_by_the_data_set(tmp_path):
    (tmp_path / 'train').write_bytes(next(hostile_pickles(str(tmp_path / 'made'))))
    with pytest.raises(ValueError, match='/train cannot be read as a pickle .* it names posix.mkdir'):
        own(tmp_path)
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('content', [
    np.zeros(3, 'f4'), np.zeros(3, 'i1'), np.zeros(3, bool), np.array([{}], object), np.zeros(3, 'u1,u1')])
def test_arrays_of_anything_but_bytes_are_refused(content):
    with pytest.raises(ValueError, match='cannot be read as a pickle of arrays and plain values'):
        read_pickle(pickled({b'data': content}))


def test_a_pickle_cannot_change_what_reads_it():
    for name in (b'numpy\nndarray', b'numpy\ndtype', b'numpy.core.multiarray\n_reconstruct'):
        with pytest.raises(ValueError, match='cannot be read as a pickle'):
            read_pickle(b'c' + name + b"\n(N}S'value'\nI7\nstb.")
    assert pickles._Array.value is None


def test_a_shape_that_does_not_fit_its_bytes_is_refused():
    good = pickled({b'data': np.zeros((2, 200), np.uint8)})
    assert good.count(b'\xc8') == 1  # 200, the second side
    with pytest.raises(ValueError, match='cannot be read as a pickle'):
        read_pickle(good.replace(b'\xc8', b'\xc9'))


@pytest.mark.parametrize('data', [b'', b'\x80', b'junk', pickled({b'a': 1})[:-3]])
def test_damaged_pickles_are_named(data):
    with pytest.raises(ValueError, match='cannot be read as a pickle of arrays and plain values: '):
        read_pickle(data)


def test_a_pickle_of_something_else_is_named():
    with pytest.raises(ValueError, match='holds no dict, but a list'):
        read_pickle(pickled([1]))


@pytest.mark.parametrize('order', ['C', 'F'])
def test_either_pythons_pickles_are_read(order):
    array = np.asarray(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order)
    old = pickled({b'name': b'x', b'numbers': [1, 2], b'words': [b'a', b'b'], b'data': array})
    new = pickle.dumps({'name': 'x', 'numbers': [1, 2], 'words': ['a', 'b'], 'data': array}, protocol=4)
    for data in (old, new):
        found = read_pickle(data)
        assert np.array_equal(found.pop('data'), array)
        assert found == {'name': 'x', 'numbers': [1, 2], 'words': ['a', 'b']}


# ---- digits

def test_digits_are_split_once_and_for_all():
    train, test = DigitsImages(split='train'), DigitsImages(split='test')
    assert (len(train), len(test)) == (800, 997)
    assert np.bincount(train.get_gt_labels()).tolist() == [80] * 10
    assert np.bincount(test.get_gt_labels()).min() >= 90
    again = DigitsImages(split='test')
    for i in (0, 500, 996):
        assert np.array_equal(test[i]['img'], again[i]['img']) and test[i]['gt_label'] == again[i]['gt_label']
    images = np.stack([train[i]['img'] for i in range(800)])
    assert images.shape == (800, 20, 20, 3) and images.dtype == np.uint8
    assert (images[..., 0] == images[..., 1]).all() and (images[..., 0] == images[..., 2]).all()
    assert len(np.unique(images.reshape(800, -1), axis=0)) == 800


def test_no_scan_is_in_both_parts():
    from sklearn.datasets import load_digits

    from mmgkd.classification.datasets.digits import _split
    parts = _split(load_digits().target)
    assert len(np.intersect1d(parts['train'], parts['test'])) == 0
    assert len(np.union1d(parts['train'], parts['test'])) == 1797


def test_digits_lie_at_different_places_and_are_visible():
    dataset = DigitsImages(split='train')
    images = np.stack([dataset[i]['img'][..., 0] for i in range(200)]).astype(float)
    ink = (images > 38 + 3 * 13).astype(float)  # above the noise
    counts = ink.sum((1, 2))
    assert (counts > 5).mean() > 0.98
    columns = (ink * np.arange(20)).sum((1, 2)) / counts.clip(1)
    assert columns.std() > 1.5


def test_digits_need_scikit_learn_only_when_they_are_read(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    dataset = DigitsImages(lazy_init=True)
    with pytest.raises(FileNotFoundError, match='pip install scikit-learn'):
        dataset.full_init()
