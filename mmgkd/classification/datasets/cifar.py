"""CIFAR-100 and CIFAR-10 as published: an archive of pickles, or its folder."""
from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Sequence

import numpy as np
from mmdet.registry import DATASETS

from .base import LabelledImages
from .pickles import read_pickle

__all__ = ['CIFAR10', 'CIFAR100']


@DATASETS.register_module()
class CIFAR100(LabelledImages):
    """60000 photographs of 32 x 32 pixels, 50000 to train on and 10000 to test on (Krizhevsky, 2009).

    ``data_root`` holds the archive of the Python version as it is downloaded, or what is in it. The files are compared
    with the published MD5 sums, and are read without running what a pickle may contain.

    Args:
        verify (bool): Refuse files that are not the published ones.

    The other arguments are those of :class:`LabelledImages`.
    """

    METAINFO = dict(classes=tuple(
        'apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can '
        'castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin '
        'elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster '
        'man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck '
        'pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk '
        'skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger '
        'tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm'.split()))
    ADDRESS = 'https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz'
    FOLDER = 'cifar-100-python'
    LABELS = 'fine_labels'
    FILES = dict(train=dict(train='16019d7e3df5f24257cddd939b257f8d'),
                 test=dict(test='f0ef6b0ae62326f3e7ffdfab6717acfc'))

    def __init__(self, *, split: str = 'train', data_root: str = 'data/cifar100', verify: bool = True,
                 pipeline: Sequence = (), metainfo: dict | None = None, indices: int | Sequence[int] | None = None,
                 test_mode: bool = False, serialize_data: bool = True, lazy_init: bool = False) -> None:
        self.verify = verify
        super().__init__(split=split, data_root=data_root, pipeline=pipeline, metainfo=metainfo, indices=indices,
                         test_mode=test_mode, serialize_data=serialize_data, lazy_init=lazy_init)

    def check_files(self) -> None:
        """See :class:`LabelledImages`."""
        archive = os.path.join(self.data_root, os.path.basename(self.ADDRESS))
        missing = [name for name in self.FILES[self.split] if not self._place(name)]
        if missing and not os.path.isfile(archive):
            raise FileNotFoundError(
                f'no {archive!r}, and no {os.path.join(self.data_root, self.FOLDER, missing[0])!r} (looked in '
                f'{os.getcwd()}): download {self.ADDRESS} to {self.data_root}, as it is or unpacked; a link to it '
                'will do')

    def load_images(self) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`LabelledImages`.

        Raises:
            FileNotFoundError: The files are not there.
            ValueError: They are damaged, or not the published ones.
        """
        self.check_files()
        parts = [self._load(name, digest) for name, digest in self.FILES[self.split].items()]
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        return images, labels

    def _load(self, name: str, digest: str) -> tuple[np.ndarray, np.ndarray]:
        data, source = self._read(name)
        if self.verify and (found := hashlib.md5(data, usedforsecurity=False).hexdigest()) != digest:
            raise ValueError(f'{source} is not the published file: its MD5 is {found}, not {digest}. Download '
                             f'{self.ADDRESS} again; verify=False reads a file of your own in the same format')
        try:
            content = read_pickle(data)
        except ValueError as error:
            raise ValueError(f'{source} {error}') from error
        images, labels = content.get('data'), content.get(self.LABELS)
        classes = len(self.metainfo['classes'])
        if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != 3072 \
                or not isinstance(labels, list) or len(labels) != len(images) \
                or not all(isinstance(label, int) and 0 <= label < classes for label in labels):
            raise ValueError(f'{source} is not in the format of {type(self).__name__}: expected data, of rows of 3072 '
                             f'bytes, and as many {self.LABELS} from 0 to {classes - 1}, found {sorted(content)}')
        return np.ascontiguousarray(images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), np.array(labels, int)

    def _read(self, name: str) -> tuple[bytes, str]:
        """A file of the archive, and where it was."""
        if path := self._place(name):
            with open(path, 'rb') as file:
                return file.read(), path
        path = os.path.join(self.data_root, os.path.basename(self.ADDRESS))
        try:
            with tarfile.open(path, 'r:gz') as archive:
                member = archive.extractfile(f'{self.FOLDER}/{name}')
                return member.read(), f'{path}/{member.name}'
        except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError, AttributeError) as error:
            raise ValueError(f'{path} cannot be read ({type(error).__name__}: {error}): download {self.ADDRESS} '
                             'again') from error

    def _place(self, name: str) -> str | None:
        """Where a file lies, if the archive is unpacked."""
        places = (os.path.join(self.data_root, self.FOLDER, name), os.path.join(self.data_root, name))
        return next((path for path in places if os.path.isfile(path)), None)


@DATASETS.register_module()
class CIFAR10(CIFAR100):
    """As :class:`CIFAR100`, of ten classes, at ``data/cifar10`` unless ``data_root`` says otherwise."""

    METAINFO = dict(classes=('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck'))
    ADDRESS = 'https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz'
    FOLDER = 'cifar-10-batches-py'
    LABELS = 'labels'
    FILES = dict(
        train=dict(data_batch_1='c99cafc152244af753f735de768cd75f', data_batch_2='d4bba439e000b95fd0a9bffe97cbabec',
                   data_batch_3='54ebc095f3ab1f0389bbae665268c751', data_batch_4='634d18415352ddfa80567beed471001a',
                   data_batch_5='482c414d41f54cd18b22e5b47cb7c3cb'),
        test=dict(test_batch='40351d587109b95175f43aff81a1287e'))

    def __init__(self, *, split: str = 'train', data_root: str = 'data/cifar10', verify: bool = True,
                 pipeline: Sequence = (), metainfo: dict | None = None, indices: int | Sequence[int] | None = None,
                 test_mode: bool = False, serialize_data: bool = True, lazy_init: bool = False) -> None:
        super().__init__(split=split, data_root=data_root, verify=verify, pipeline=pipeline, metainfo=metainfo,
                         indices=indices, test_mode=test_mode, serialize_data=serialize_data, lazy_init=lazy_init)
