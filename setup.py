"""Builds mmgkd. Configs and tools travel inside the package as mmgkd/.mim, the layout that mim knows."""
import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = 'mmgkd'
MIM = ('configs', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Copies the `.mim` files into a wheel; an editable install gets links, so that edits count at once."""

    def run(self):
        super().run()
        if self.editable_mode:
            target, place = ROOT / PACKAGE / '.mim', link
        else:
            target, place = Path(self.build_lib) / PACKAGE / '.mim', copy
        target.mkdir(parents=True, exist_ok=True)
        for name in MIM:
            place(ROOT / name, target / name)


def clear(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.is_symlink() or path.exists():
        path.unlink()


def copy(source, target):
    clear(target)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
    elif source.exists():
        shutil.copyfile(source, target)


def link(source, target):
    clear(target)
    try:  # relative, so that a moved clone keeps working
        target.symlink_to(os.path.relpath(source, target.parent), target_is_directory=source.is_dir())
    except OSError:  # a file system, or a Windows account, without symbolic links
        copy(source, target)


def text(name):
    path = ROOT / name
    return path.read_text(encoding='utf-8') if path.exists() else ''


def version():
    return re.search(r"__version__ = '(.+)'", text(f'{PACKAGE}/version.py')).group(1)


setup(
    name=PACKAGE,
    version=version(),
    description='Graph knowledge distillation for MMDetection',
    long_description=text('README.md'),
    long_description_content_type='text/markdown',
    author='The mmgkd contributors',
    license='Apache-2.0',
    keywords=['knowledge distillation', 'object detection', 'graph', 'MMDetection'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    python_requires='>=3.10',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    # The import names torch, mmengine, mmcv and mmdet come from more than one distribution.
    # Required here, pip would put another one over the one that the user has.
    install_requires=[],
    extras_require={
        'onedl': ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3.6', 'onedl-mmdetection>=3.5.1'],
        'openmmlab': ['mmengine>=0.10.6', 'mmcv>=2.0.0,<2.2.0', 'mmdet>=3.0.0,<3.4', 'setuptools<82'],
        'demo': ['scikit-learn', 'scipy', 'matplotlib'],
        'test': ['pytest', 'pytest-xdist', 'scipy', 'scikit-learn', 'ruff', 'setuptools>=64', 'wheel'],
    },
    cmdclass={'build_py': BuildWithMim},
    zip_safe=False)
