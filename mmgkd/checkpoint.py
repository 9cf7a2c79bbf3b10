"""Reading checkpoints without running what they contain."""
from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from pickle import UnpicklingError

import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import print_log
from mmengine.utils import digit_version

from . import unpickling

__all__ = ['class_names', 'fetch', 'load_weights', 'local_rank', 'told']

TAKES_STAND_INS = digit_version(torch.__version__) >= digit_version('2.6')
"""Whether torch's own safe reading can be told what stands in for a name."""
NAMED = r'(?:GLOBAL|Unsupported class) (\S+)'
"""What a refusal names, by this package or by torch, of either age."""


def load_weights(path: str, *, weights_only: bool = True) -> dict[str, torch.Tensor]:
    """The weights of a detector, on the CPU, from a checkpoint of mmdet 2.x, mmdet 3.x or mmgkd, with the versions of
    its modules (``_metadata``), if it has any.

    Args:
        path (str): A file or a URL.
        weights_only (bool): Refuse files that need general pickle, which can run any code when it is read.

    Raises:
        FileNotFoundError: There is no such file, or the URL cannot be had.
        ValueError: The file needs pickle, or holds no weights.
    """
    checkpoint = _content(path, weights_only)
    if isinstance(checkpoint, dict):
        for key in ('state_dict', 'model'):
            if isinstance(checkpoint.get(key), dict):
                checkpoint = checkpoint[key]
                break
    weights = OrderedDict((k.removeprefix('module.'), v) for k, v in checkpoint.items()
                          if isinstance(k, str) and isinstance(v, torch.Tensor)) \
        if isinstance(checkpoint, dict) else {}
    if not weights:
        raise ValueError(f'checkpoint {path!r} holds no weights (expected a dict with state_dict)')
    if versions := getattr(checkpoint, '_metadata', None):
        weights._metadata = {re.sub(r'^module(\.|$)', '', key): version for key, version in versions.items()}
    return weights


def class_names(path: str, *, weights_only: bool = True) -> list[str]:
    """The names of the classes that a detector was trained on, in its order; none where the checkpoint has them not.

    Args:
        path (str): A file or a URL.
        weights_only (bool): As of :func:`load_weights`, which raises the same.
    """
    meta = _content(path, weights_only)
    for key in ('meta', 'dataset_meta'):
        meta = meta.get(key, meta) if isinstance(meta, dict) else {}
    names = next((meta[key] for key in ('thing_classes', 'classes', 'CLASSES') if key in meta), ())
    return [str(name) for name in names] if isinstance(names, (list, tuple)) else []


def _content(path: str, weights_only: bool):
    local = fetch(path)
    try:
        if weights_only:
            return _read_safely(local)
        return torch.load(local, map_location='cpu', weights_only=False)
    except Exception as error:  # whatever a file that is no checkpoint may lead to
        if found := isinstance(error, UnpicklingError) and re.search(NAMED, str(error)):
            raise ValueError(f'checkpoint {path!r} holds more than weights ({found[1]}) and was not read: pickled '
                             'objects can run any code. If you trust its source, say so by weights_only=False beside '
                             'checkpoint=') from error
        raise ValueError(f'checkpoint {path!r} cannot be read ({type(error).__name__}: {str(error)[:200]}): is it '
                         'complete, and a PyTorch file?') from error


def _read_safely(local: str):
    """The content of a file, with stand-ins for MMEngine's training records.

    Raises:
        UnpicklingError: It needs anything but these, weights and plain values.
    """
    if TAKES_STAND_INS:
        allowed = [(stand_in, name) for name, stand_in in unpickling.STAND_INS.items()]
        with torch.serialization.safe_globals(allowed):
            return torch.load(local, map_location='cpu', weights_only=True)
    with open(local, 'rb') as file:
        zipped = file.read(4) == b'PK\3\4'  # what torch itself looks at; before 1.6 it wrote another format
    if zipped and 'constants.pkl' in torch._C.PyTorchFileReader(local).get_all_records():
        raise RuntimeError('a TorchScript program, which torch before 2.6 would run')
    try:
        return torch.load(local, map_location='cpu', weights_only=True)
    except UnpicklingError:
        if not zipped:
            raise
    return torch.load(local, map_location='cpu', pickle_module=unpickling, weights_only=False)


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
    digest = re.search(r'-((?!\d{8}\.)[0-9a-f]{8}|[0-9a-f]{64})\.', name)  # the start of a SHA-256, and no date
    if not digest:  # epoch_12.pth may be anything: only its address tells it from others
        stem, extension = os.path.splitext(name)
        name = f'{stem}_{hashlib.sha256(path.encode()).hexdigest()[:16]}{extension}'
    local = os.path.join(torch.hub.get_dir(), 'checkpoints', name)
    error = None
    if local_rank() == 0 and not os.path.isfile(local):
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


def local_rank() -> int:
    """Which of its machine's processes this is, also before MMEngine has started distributed training."""
    for launcher in ('LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'SLURM_LOCALID'):
        if launcher in os.environ:
            return int(os.environ[launcher])
    return get_rank()


def told(**keys: list[str]) -> str:
    """What does not fit, by kind: how many keys, and the first three, such as ``4 missing (a; b; c; ...)``."""
    return ', '.join(f'{len(some)} {kind.replace("_", "-")} ({"; ".join(some[:3])}{"; ..." if len(some) > 3 else ""})'
                     for kind, some in keys.items() if some)
