"""Reads the pickle of a training checkpoint and rebuilds nothing of it but tensors in dicts.

MMEngine writes log histories, schedules and scores beside the weights. They are pickled by the names of their
classes; each name stands in a list here, and what it names is replaced by something that does nothing.
"""
from __future__ import annotations

import pickle
from collections import OrderedDict

from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

__all__ = ['STAND_INS', 'Unpickler']


class Inert:
    """Stands in for an object that is not needed: takes any arguments and any state, and keeps neither."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


class Record(Inert):
    """Stands in for a log history of MMEngine."""


class Function:
    """A function that can be called and, unlike a plain one, not changed: a pickle may set attributes of anything."""
    __slots__ = ('_call',)

    def __init__(self, call):
        self._call = call

    def __call__(self, *args):
        return self._call(*args)

    def __setstate__(self, state):
        raise pickle.UnpicklingError('GLOBAL setattr of a function')


def _record_attribute(owner, name):
    """Stands in for ``getattr``, by which log histories name their methods, and which reaches everything there is."""
    if owner is not Record:
        raise pickle.UnpicklingError(f'GLOBAL getattr of {owner}')
    return Record


STAND_INS = {
    'mmengine.logging.history_buffer.HistoryBuffer': Record,
    'builtins.getattr': Function(_record_attribute),
    **dict.fromkeys((
        'builtins.slice', 'numpy.dtype', 'numpy.ndarray',
        'numpy.core.multiarray._reconstruct', 'numpy._core.multiarray._reconstruct',
        'numpy.core.multiarray.scalar', 'numpy._core.multiarray.scalar'), Inert),
}
"""What MMEngine's checkpoints name beside weights and plain values, and what it becomes."""

ALLOWED = STAND_INS | {
    'collections.OrderedDict': OrderedDict,
    'torch._utils._rebuild_tensor_v2': Function(_rebuild_tensor_v2),
    'torch._utils._rebuild_parameter': Function(_rebuild_parameter),
    **dict.fromkeys((  # values in the state of optimisers and schedules
        '_codecs.encode', 'builtins.bytearray', 'builtins.bytes', 'builtins.complex', 'builtins.set',
        'collections.Counter', 'torch.Size', 'torch.device', 'torch.float16', 'torch.bfloat16', 'torch.float32',
        'torch.float64', 'torch.int64'), Inert),
}


class Unpickler(pickle.Unpickler):
    """What ``torch.load`` asks of a ``pickle_module`` for a file in zip format; storages it reads itself."""

    def find_class(self, module, name):
        """The stand-in of a name.

        Raises:
            UnpicklingError: It is not in the list.
        """
        full = f'{"builtins" if module == "__builtin__" else module}.{name}'
        if full not in ALLOWED:
            raise pickle.UnpicklingError(f'GLOBAL {full}')
        return ALLOWED[full]
