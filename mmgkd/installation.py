"""Reads which torch, mmengine, mmcv and mmdet are installed; what may be broken is imported only where a check asks."""
import importlib
import importlib.util
import os
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .environment import DISTRIBUTIONS, Environment

__all__ = ['installed']


def folder(module):
    """Folder of an importable package; a mere folder of that name somewhere on the path is none."""
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


def source(path):
    module, _, rest = path.partition('/')
    file = folder(module) / rest
    return file.read_text(encoding='utf-8', errors='replace') if file.exists() else ''


def import_error(module):
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken binary fails with more than ImportError
        return f'{type(error).__name__}: {error}'


def dist_version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def installed():
    """The `Environment` that is there."""
    versions, providers = {}, {}
    for module, names in DISTRIBUTIONS.items():
        found = {name: number for name in names if (number := dist_version(name))}
        providers[module] = tuple(found)
        if folder(module):
            # Where two distributions wrote to one folder, its own version file tells which came last.
            stated = re.search(r"^__version__ = '(.+)'", source(f'{module}/version.py'), re.M)
            versions[module] = stated.group(1) if stated else next(iter(found.values()), '')
    if number := dist_version('setuptools'):
        versions['setuptools'] = number
    return Environment(versions, providers, source, import_error, os.environ)
