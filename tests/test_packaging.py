"""A wheel carries package, configs and tools and requires nothing; the set-up refuses what cannot work."""
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from mmengine.config.utils import _get_cfg_metainfo

from mmgkd import __version__

ROOT = Path(__file__).resolve().parents[1]
PARTS = ('mmgkd', 'configs', 'tools', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'model-index.yml',
         'LICENSE')


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A copy of the sources, so that building leaves nothing behind."""
    tree = tmp_path_factory.mktemp('tree')
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
        else:
            shutil.copy(ROOT / name, tree / name)
    return tree


@pytest.fixture(scope='module')
def wheel(tree, tmp_path_factory):
    out = tmp_path_factory.mktemp('wheel')
    run([sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index',
         '-w', out, tree])
    with zipfile.ZipFile(next(out.glob('mmgkd-*.whl'))) as archive:
        archive.extractall(out / 'installed')
    return out / 'installed'


def run(command, **kwargs):
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def files(folder, pattern='*'):
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)
            if path.is_file() and not {'__pycache__', '.mim'} & set(path.relative_to(folder).parts)}


def test_wheel_carries_package_configs_and_tools(wheel):
    assert files(wheel / 'mmgkd', '*.py') == files(ROOT / 'mmgkd', '*.py')
    mim = wheel / 'mmgkd' / '.mim'
    assert files(mim / 'configs') == files(ROOT / 'configs')
    assert files(mim / 'tools') == files(ROOT / 'tools')
    assert (mim / 'model-index.yml').read_text() == (ROOT / 'model-index.yml').read_text()
    assert {path.name.split('-')[0] for path in wheel.iterdir()} == {'mmgkd'}, 'nothing else at top level'


def test_wheel_requires_nothing_outside_extras(wheel):
    metadata = Parser().parsestr(next(wheel.glob('*.dist-info/METADATA')).read_text())
    assert (metadata['Name'], metadata['Version']) == ('mmgkd', __version__)
    assert metadata['Requires-Python'] == '>=3.10'
    assert set(metadata.get_all('Provides-Extra')) == {'onedl', 'openmmlab', 'demo', 'test'}
    assert [line for line in metadata.get_all('Requires-Dist') if 'extra ==' not in line] == []


def test_building_leaves_the_sources_alone(wheel, tree):
    assert not (tree / 'mmgkd' / '.mim').exists()


def test_model_index_lists_configs_that_exist(wheel):
    listed = re.findall(r'^ +Config: configs/(.+)$', (ROOT / 'configs/metafile.yml').read_text(), re.M)
    assert listed
    for name in listed:
        config = _get_cfg_metainfo(str(wheel / 'mmgkd'), name)['Config']
        assert (wheel / 'mmgkd' / '.mim' / config).is_file(), config


def test_editable_install_links_to_the_sources(tree, tmp_path):
    copy = tmp_path / 'tree'
    shutil.copytree(tree, copy)
    build = 'import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])'
    run([sys.executable, '-c', build, tmp_path], cwd=copy)
    assert len(list(tmp_path.glob('mmgkd-*.whl'))) == 1
    mim = copy / 'mmgkd' / '.mim'
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (mim / name).resolve() == (copy / name).resolve()
        assert not os.path.isabs(os.readlink(mim / name))


# ---- tools/setup.sh

def setup(tmp_path, **env):
    """Runs the set-up, which has to refuse before it writes anything."""
    env = {'PATH': os.environ['PATH'], 'VENV': str(tmp_path / 'venv'), 'PYTHON': sys.executable} | env
    done = subprocess.run(['bash', ROOT / 'tools/setup.sh'], text=True, capture_output=True, timeout=60,
                          env=env)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith('setup: ')
    return done.stderr


def python_that_says(folder, says):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'python').write_text(f'#!/bin/sh\necho {says}\n')
    (folder / 'python').chmod(0o755)
    return folder / 'python'


def test_setup_refuses_an_unsupported_python(tmp_path):
    error = setup(tmp_path, PYTHON=str(python_that_says(tmp_path / 'old', '3.9')))
    assert 'needs Python 3.10, 3.11 or 3.12' in error
    assert 'is Python 3.9' in error
    assert 'make setup PYTHON=' in error
    assert not (tmp_path / 'venv').exists()


def test_setup_refuses_a_python_that_is_not_there(tmp_path):
    assert 'no such command' in setup(tmp_path, PYTHON='python-of-nowhere')


def test_setup_refuses_without_a_compiler(tmp_path):
    assert 'apt install build-essential' in setup(tmp_path, CXX='compiler-of-nowhere')
    assert not (tmp_path / 'venv').exists()


def test_setup_keeps_an_environment_of_another_python(tmp_path):
    there = python_that_says(tmp_path / 'venv' / 'bin', '3.12')
    asked = python_that_says(tmp_path / 'asked', '3.11')
    error = setup(tmp_path, PYTHON=str(asked), PYTHON_ASKED='command')
    assert 'is Python 3.11, but' in error
    assert 'was made with Python 3.12' in error
    assert f'rm -r {tmp_path / "venv"}' in error
    assert there.exists()
