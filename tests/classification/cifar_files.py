"""Writes CIFAR's files as they are published: pickles of Python 2, a folder, an archive."""
import io
import pickle
import struct
import tarfile

import numpy as np


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, and numpy's names as they were then."""
    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, obj):
        self.write(pickle.BINSTRING + struct.pack('<i', len(obj)) + obj)
        self.memoize(obj)

    def save_global(self, obj, name=None):
        module = 'numpy.core.multiarray' if obj.__module__ == 'numpy._core.multiarray' else obj.__module__
        self.write(pickle.GLOBAL + f'{module}\n{name or obj.__qualname__}\n'.encode())
        self.memoize(obj)

    dispatch[bytes] = save_bytes
    dispatch[type] = dispatch[type(np.asarray)] = dispatch[type(len)] = dispatch[type(np.ones)] = save_global


def pickled(content):
    """The bytes of a pickle."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def batch(images, labels, key=b'fine_labels'):
    """One file's content: rows of 1024 bytes of red, of green and of blue."""
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))
    names = [b'photograph_%d.png' % i for i in range(len(images))]
    return {b'filenames': names, b'batch_label': b'a batch', key: [int(x) for x in labels], b'data': rows}


def random_images(count, classes, seed=0):
    """Noise, and classes in turn."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % classes


def write_cifar100(root, train=20, test=10, packed=False):
    """A small CIFAR-100 below ``root``; returns what is in it."""
    parts = dict(train=random_images(train, 100), test=random_images(test, 100, seed=1))
    write(root, 'cifar-100-python', {
        name: batch(*part) | {b'coarse_labels': [0] * len(part[1])} for name, part in parts.items()}, packed)
    return parts


def write_cifar10(root, packed=False):
    """A small CIFAR-10: five files of four images to train on, one of six to test."""
    parts = {f'data_batch_{i}': random_images(4, 10, seed=i) for i in range(1, 6)}
    parts['test_batch'] = random_images(6, 10)
    write(root, 'cifar-10-batches-py', {
        name: batch(*part, key=b'labels') for name, part in parts.items()}, packed)
    return parts


def write(root, folder, files, packed):
    """Contents as files of a folder, or of an archive."""
    if not packed:
        (root / folder).mkdir(parents=True)
        for name, content in files.items():
            (root / folder / name).write_bytes(pickled(content))
        return
    root.mkdir(parents=True, exist_ok=True)
    archive = {'cifar-100-python': 'cifar-100-python.tar.gz', 'cifar-10-batches-py': 'cifar-10-python.tar.gz'}[folder]
    with tarfile.open(root / archive, 'w:gz') as tar:
        for name, content in files.items():
            data = pickled(content)
            info = tarfile.TarInfo(f'{folder}/{name}')
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
