"""Reading checkpoints without running what they contain."""
from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pickle import UnpicklingError

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.utils import digit_version

__all__ = ['fetch', 'load_weights']


def load_weights(path: str, *, weights_only: bool = True) -> dict[str, torch.Tensor]:
    """The weights of a detector, on the CPU, from a checkpoint of mmdet 2.x, mmdet 3.x or mmgkd.

    Args:
        path (str): A file or a URL.
        weights_only (bool): Refuse files that need general pickle, which can run any code when it is read.

    Raises:
        FileNotFoundError: There is no such file, or the URL cannot be had.
        ValueError: The file needs pickle, or holds no weights.
    """
    local = fetch(path)
    try:
        with _training_records() if weights_only else nullcontext():
            checkpoint = torch.load(local, map_location='cpu', weights_only=weights_only)
    except Exception as error:  # whatever a file that is no checkpoint may lead to
        if found := isinstance(error, UnpicklingError) and re.search(r'GLOBAL (\S+)', str(error)):
            raise ValueError(f'checkpoint {path!r} holds more than weights ({found[1]}) and was not read: pickled '
                             'objects can run any code. If you trust its source, say so by weights_only=False beside '
                             'checkpoint=') from error
        raise ValueError(f'checkpoint {path!r} cannot be read ({type(error).__name__}: {str(error)[:200]}): is it '
                         'complete, and a PyTorch file?') from error
    if isinstance(checkpoint, dict):
        for key in ('state_dict', 'model'):
            if isinstance(checkpoint.get(key), dict):
                checkpoint = checkpoint[key]
                break
    weights = {k.removeprefix('module.'): v for k, v in checkpoint.items()
               if isinstance(k, str) and isinstance(v, torch.Tensor)} \
        if isinstance(checkpoint, dict) else {}
    if not weights:
        raise ValueError(f'checkpoint {path!r} holds no weights (expected a dict with state_dict)')
    return weights


def fetch(path: str) -> str:
    """The local file of a checkpoint; one given by URL is downloaded once, by one process of a machine, and kept.

    Raises:
        FileNotFoundError: There is no such file, or the URL cannot be had.
    """
    if not re.match(r'https?://', path):
        if not os.path.isfile(path):
            raise FileNotFoundError(f'no checkpoint {path!r} (looked in {os.getcwd()}): train or download it first, '
                                    'or give its path')
        return path
    name = path.rpartition('/')[2].partition('?')[0]
    digest = re.search(r'-([0-9a-f]{8}|[0-9a-f]{64})\.', name)  # mmdet's files carry the start of their SHA-256
    local = os.path.join(torch.hub.get_dir(), 'checkpoints', name)
    error = None
    if int(os.environ.get('LOCAL_RANK', get_rank())) == 0 and not os.path.isfile(local):
        os.makedirs(os.path.dirname(local), exist_ok=True)
        print_log(f'downloading {path} to {local}', 'current')
        try:
            torch.hub.download_url_to_file(path, local, digest and digest[1], progress=True)
        except Exception as failure:  # of whatever kind: the other processes wait below
            error = failure
    barrier()
    if not os.path.isfile(local):
        raise FileNotFoundError(f'cannot download {path} ({error}): fetch it by hand, from a mirror if that host is '
                                f'gone, and give its path as checkpoint, or put it at {local}') from error
    return local


class _Record:
    """Stands in for a training record of MMEngine, which is not needed and not rebuilt."""

    def __setstate__(self, state):
        pass


def _record_attribute(owner, name):
    """Stands in for ``getattr``, which MMEngine's records call while they are unpickled."""
    if owner is not _Record:
        raise UnpicklingError(f'GLOBAL getattr of {owner}')
    return _Record


def _training_records():
    """Allow what MMEngine writes beside the weights: log histories, as inert stand-ins, and numpy scalars."""
    if digit_version(torch.__version__) < digit_version('2.6'):  # no stand-ins there: weights and plain values only
        return nullcontext()
    import numpy as np
    core = np._core if hasattr(np, '_core') else np.core
    allowed = [(_Record, 'mmengine.logging.history_buffer.HistoryBuffer'), (_record_attribute, 'builtins.getattr'),
               (slice, 'builtins.slice'), np.ndarray, np.dtype]
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [(core.multiarray._reconstruct, f'{module}._reconstruct'),
                    (core.multiarray.scalar, f'{module}.scalar')]
    allowed += [type(np.dtype(kind)) for kind in ('f4', 'f8', 'i4', 'i8', 'u4', 'u8', '?')]
    return torch.serialization.safe_globals(allowed)
