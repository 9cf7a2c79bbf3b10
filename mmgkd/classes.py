"""The classes that models, data sets and teachers know."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

from mmdet.registry import DATASETS
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset

from .checkpoint import class_names, local_rank
from .config_parts import innermost

__all__ = ['class_counts', 'dataset_classes', 'dataset_type', 'other_order']


def class_counts(model: dict, where: str = 'model') -> Iterator[tuple[str, int]]:
    """The ``num_classes`` of a classifier's head or a detector's box heads.

    A detector's other heads may know other classes, stuff or objects alone.
    """
    for key in ('head', 'roi_head', 'bbox_head'):
        heads = model.get(key) or ()
        for i, head in enumerate([heads] if isinstance(heads, dict) else heads):
            name = f'{where}.{key}' if isinstance(heads, dict) else f'{where}.{key}[{i}]'
            if 'num_classes' in head:
                yield name, head['num_classes']
            yield from class_counts(head, name)


def dataset_type(dataset: ConfigDict) -> type | None:
    """The class of a data set, which a config names or, in pure Python, gives."""
    return dataset.type if isinstance(dataset.type, type) else DATASETS.get(dataset.type)


def dataset_classes(kind: type | None, metainfo: dict | None) -> Sequence[str]:
    """Those that a config gives, in a file too, or else the data set's own."""
    names = ('thing_classes', 'classes')
    given = BaseDataset._load_metainfo({name: metainfo[name] for name in names if name in (metainfo or {})})
    known = {**getattr(kind, 'METAINFO', {}), **given}
    return known.get('thing_classes') or known.get('classes') or ()


def other_order(cfg: Config) -> str | None:
    """What tells that the teacher's checkpoint has the student's classes in another order; None where nothing does.

    Of other names nothing is said: what one calls person, another may call pedestrian.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: It cannot be read.
    """
    if local_rank() != 0 or not cfg.get('train_dataloader'):
        return None
    teacher = cfg.model.teacher
    theirs = class_names(teacher.checkpoint, weights_only=teacher.get('weights_only', True))
    for part in innermost(cfg.train_dataloader.dataset):
        ours = dataset_classes(dataset_type(part), part.get('metainfo'))
        for place, name in enumerate(ours, 1):
            if len(theirs) == len(ours) and theirs[place - 1] != name and name in theirs:
                return (f'{teacher.checkpoint!r} has the student\'s classes in another order, {name!r} as number '
                        f'{theirs.index(name) + 1} of {len(theirs)} instead of {place}')
    return None
