"""What annotation files say of their classes, read without the rest of them."""
from __future__ import annotations

import json
import mmap
import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from xml.etree import ElementTree

from mmdet.datasets import CocoDataset, XMLDataset

__all__ = ['categories', 'object_names', 'unknown_names']

LOOKED_AT = 200
"""Annotation files of VOC's layout, one of each image; they list no categories, and reading all would take long."""

LONGEST = 2 ** 20
"""Of a list of categories, in bytes; LVIS' 1203 with their definitions take half of it."""


def unknown_names(dataset: dict, kind: type, classes: Sequence[str]) -> str | None:
    """What is wrong with the classes' names; mmdet leaves out boxes of others, and counts the rest on, without a word.

    Args:
        dataset (dict): The config of a data set.
        kind (type): Its class.
        classes (Sequence[str]): Those that it is to have.
    """
    reads, root = getattr(kind, 'load_data_list', None), dataset.get('data_root') or ''
    path = os.path.join(root, dataset.get('ann_file') or '')
    if dataset.get('backend_args') or not os.path.isfile(path):
        return None
    if reads is CocoDataset.load_data_list:
        listed = categories(path) or classes
        if absent := [name for name in classes if name not in listed]:
            return (f'{path} has no class {absent[0]!r}, one of {len(classes)} that the data set is to have; its '
                    f'categories are {_few(listed)}')
    elif reads is XMLDataset.load_data_list:
        prefix = (dataset.get('data_prefix') or {}).get('sub_data_root', '')
        found = object_names(path, os.path.join(root, prefix, dataset.get('ann_subdir', 'Annotations')))
        if found and not set(found) & set(classes):
            return (f'objects of the first images in {path} are called {_few(found)}; the data set\'s {len(classes)} '
                    f'classes are {_few(classes)}')
    return None


def _few(names: Sequence[str]) -> str:
    return f'{", ".join(names[:5])}{", ..." if len(names) > 5 else ""}'


def categories(path: str) -> list[str] | None:
    """The names in the ``categories`` of a COCO annotation file, or None where that cannot be told.

    Mostly the list stands at a file's beginning or end; only elsewhere is all of it searched, and none of it is parsed.
    """
    if not os.path.isfile(path) or not os.path.getsize(path):
        return None
    with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for start, end in ((0, LONGEST), (-LONGEST, len(content)), (0, len(content))):
            found = content.rfind(b'"categories"', start, end)
            text = content[found:found + LONGEST].decode(errors='ignore') if found >= 0 else ''
            _, _, listed = text.partition(':')
            try:
                names = [item['name'] for item in json.JSONDecoder().raw_decode(listed.lstrip())[0]]
            except (KeyError, TypeError, ValueError):
                continue
            return [str(name) for name in names]
    return None


def object_names(image_list: str, folder: str) -> list[str]:
    """The names of objects in a VOC data set's first annotation files, those that occur most first.

    Args:
        image_list (str): A text file, one image a line.
        folder (str): Of their XML files.

    Raises:
        ValueError: One of them is no XML.
    """
    counts: Counter[str] = Counter()
    with open(image_list, encoding='utf-8') as file:
        paths = [os.path.join(folder, f'{line.strip()}.xml') for line in islice(file, LOOKED_AT)]
    for path in filter(os.path.isfile, paths):
        try:
            counts.update(name.text for name in ElementTree.parse(path).iterfind('object/name') if name.text)
        except ElementTree.ParseError as error:
            raise ValueError(f'{path} is no XML: {error}') from error
    return [name for name, _ in counts.most_common()]
