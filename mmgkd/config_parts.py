"""Finding the parts of a config."""
from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict

__all__ = ['called', 'innermost', 'is_distiller']


def innermost(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if 'dataset' in dataset:
        yield from innermost(dataset.dataset)
    elif 'datasets' in dataset:
        for part in dataset.datasets:
            yield from innermost(part)
    else:
        yield dataset


def called(part: object) -> str:
    """The name of a part's type, which pure Python configs give as a class; of what has none, nothing."""
    kind = part.get('type', '') if isinstance(part, dict) else ''
    return getattr(kind, '__name__', str(kind))


def is_distiller(cfg: Config) -> bool:
    """Whether the model is a :class:`Distiller`, by this name or by that of the scope, ``mmgkd.Distiller``."""
    return called(cfg.get('model')).rpartition('.')[2] == 'Distiller'
