"""Reading CIFAR's pickles without running what they may contain."""
from __future__ import annotations

import io
import pickle

import numpy as np

__all__ = ['read_pickle']


def read_pickle(data: bytes) -> dict[str, object]:
    """The dict in a pickle of plain containers, strings, numbers and arrays of bytes.

    Whatever else a pickle names, which might be any code, is refused. Arrays are put together here and not by
    numpy's own methods for pickles, which trust their arguments. Strings of Python 2 are taken as Latin-1.

    Raises:
        ValueError: It names something else, is damaged, or holds no dict.
    """
    try:
        found = _Reader(io.BytesIO(data), encoding='bytes').load()
    except Exception as error:  # a damaged pickle may fail in any way
        raise ValueError(f'cannot be read as a pickle of arrays and plain values: {error}') from error
    if not isinstance(found, dict):
        raise ValueError(f'holds no dict, but a {type(found).__name__}')
    return {_text(key): _plain(value) for key, value in found.items()}


class _Array:
    """Stands in for numpy's array, and for the function that makes an empty one, while it is read."""

    value: np.ndarray | None = None

    def __init__(self, *_args) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, columns_first, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError('an array of something other than bytes')
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order='F' if columns_first else 'C')


class _Dtype:
    """Stands in for numpy's type of unsigned bytes, the only one that these files hold."""

    def __init__(self, name: str | bytes, *_flags) -> None:
        if _text(name) not in ('u1', 'uint8', '|u1'):
            raise pickle.UnpicklingError(f'an array of type {name!r}')

    def __setstate__(self, state: tuple) -> None:
        pass


ALLOWED = {('numpy', 'ndarray'): _Array, ('numpy', 'dtype'): _Dtype,
           ('numpy.core.multiarray', '_reconstruct'): _Array, ('numpy._core.multiarray', '_reconstruct'): _Array}
"""What the files name, and what it becomes; not functions, whose attributes a pickle could set."""


class _Reader(pickle.Unpickler):

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f'it names {module}.{name}, and pickled objects can run any code')
        return ALLOWED[module, name]


def _text(value: object) -> object:
    return value.decode('latin1') if isinstance(value, bytes) else value


def _plain(value: object) -> object:
    if isinstance(value, _Array):
        return value.value
    return [_text(item) for item in value] if isinstance(value, list) else _text(value)
