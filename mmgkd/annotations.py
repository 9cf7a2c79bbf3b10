"""What annotation files say of their classes, read without the rest of them."""
from __future__ import annotations

import difflib
import json
import mmap
import os
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree

from mmdet.datasets import CocoDataset, XMLDataset

__all__ = ['categories', 'object_names', 'unknown_names']

LOOKED_AT = 200
"""Annotation files of VOC's layout, one of each image: they list no categories, and all are read only to be sure."""
ALIKE = .9
"""By difflib's ratio: a name that is so like another is taken for it, misspelt."""

LONGEST = 2 ** 20
"""Of a list of categories, in bytes; LVIS' 1203 with their definitions take half of it."""


def unknown_names(dataset: dict, kind: type, classes: Sequence[str]) -> str | None:
    """What is wrong with the classes' names, or their order; mmdet leaves out boxes of others, without a word.

    Args:
        dataset (dict): The config of a data set.
        kind (type): Its class.
        classes (Sequence[str]): Those that it is to have.

    Raises:
        ValueError: An annotation file is no XML.
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
        order = [name for name in listed if name in classes]
        if moved := [pair for pair in zip(order, classes, strict=False) if len(set(pair)) > 1]:
            return (f'mmdet numbers classes in the order of the categories in {path} and names them in that of '
                    f'metainfo.classes, so that what is {moved[0][0]!r} would be called {moved[0][1]!r}')
    elif _reads_voc(kind):
        prefix = (dataset.get('data_prefix') or {}).get('sub_data_root', '')
        folder = os.path.join(root, prefix, dataset.get('ann_subdir', 'Annotations'))
        if _misfit(object_names(path, folder, LOOKED_AT), classes) and (
                said := _misfit(object_names(path, folder), classes)):
            return f'{path}: {said}'
    return None


def _reads_voc(kind: type) -> bool:
    """Whether a data set takes the names of objects as they stand in VOC's files."""
    return all(getattr(kind, name, None) is getattr(XMLDataset, name) for name in (
        'load_data_list', 'parse_data_info', '_parse_instance_info'))


def _misfit(found: Sequence[str], classes: Sequence[str]) -> str | None:
    others = [name for name in found if name not in classes]
    if found and len(others) == len(found):
        return f'its objects are called {_few(found)}; the data set\'s {len(classes)} classes are {_few(classes)}'
    for name in (name for name in classes if name not in found):
        alike = [other for other in others if other.casefold() == name.casefold()] or difflib.get_close_matches(
            name, others, 1, ALIKE)
        if alike:
            return f'it has no object of class {name!r}, and some called {alike[0]!r}'
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


def object_names(image_list: str, folder: str, at_most: int | None = None) -> list[str]:
    """The names of objects in a VOC data set's annotation files, those that occur most first.

    Args:
        image_list (str): A text file, one image a line.
        folder (str): Of their XML files.
        at_most (int, optional): So many of these are read, from all over the list; by default all.

    Raises:
        ValueError: One of them is no XML.
    """
    counts: Counter[str] = Counter()
    with open(image_list, encoding='utf-8') as file:
        lines = [line.strip() for line in file]
    step = -(-len(lines) // at_most) if at_most else 1
    for line in lines[::step or 1]:
        path = os.path.join(folder, f'{line}.xml')
        if not os.path.isfile(path):
            continue
        try:
            counts.update(name.text for name in ElementTree.parse(path).iterfind('object/name') if name.text)
        except ElementTree.ParseError as error:
            raise ValueError(f'{path} is no XML: {error}') from error
    return [name for name, _ in counts.most_common()]
