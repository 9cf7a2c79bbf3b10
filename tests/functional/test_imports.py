"""Imports run one way: functional <- losses <- distiller <- tools."""
import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONAL = sorted((ROOT / 'mmgkd' / 'functional').rglob('*.py'))
LOSSES = sorted((ROOT / 'mmgkd' / 'losses').rglob('*.py'))
PACKAGE = sorted((ROOT / 'mmgkd').rglob('*.py'))


def name_of(path):
    return str(path.relative_to(ROOT))


def imports(path, source=None):
    """Every module that a file imports, anywhere in it, as absolute dotted names."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(source if source is not None else path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else ()
            module = '.'.join([*base, *([node.module] if node.module else [])])
            yield from (f'{module}.{alias.name}' for alias in node.names)


def within(module, *packages):
    return any(module == p or module.startswith(p + '.') for p in packages)


def test_the_reader_of_imports():
    path = ROOT / 'mmgkd' / 'losses' / 'example.py'
    source = ('import a.b\nfrom .. import c\nfrom ..d import e\nfrom .f import g\n'
              'def h():\n    from i.j import k')
    want = {'a.b', 'mmgkd.c', 'mmgkd.d.e', 'mmgkd.losses.f.g', 'i.j.k'}
    assert set(imports(path, source)) == want


@pytest.mark.parametrize('path', FUNCTIONAL, ids=name_of)
def test_functional_imports_torch_the_standard_library_and_itself(path):
    for module in imports(path):
        assert within(module, 'torch', 'mmgkd.functional', *sys.stdlib_module_names), module


@pytest.mark.parametrize('path', LOSSES, ids=name_of)
def test_losses_do_not_import_what_uses_them(path):
    for module in imports(path):
        assert not within(module, 'mmgkd.distiller', 'mmgkd.teacher', 'mmgkd.hooks', 'tools'), module


@pytest.mark.parametrize('path', PACKAGE, ids=name_of)
def test_the_package_does_not_import_tools(path):
    for module in imports(path):
        assert not within(module, 'tools', 'tests'), module


def test_functional_exists():
    assert {'channel_graph.py', 'graph.py', 'moments.py', 'spectral.py'} <= {path.name for path in FUNCTIONAL}


def test_a_copy_of_functional_works_with_nothing_but_torch(tmp_path):
    """As its docstring says: under another name, where no package of the stack can be imported."""
    shutil.copytree(ROOT / 'mmgkd' / 'functional', tmp_path / 'graphs')
    code = '''
import sys
sys.modules.update(dict.fromkeys(('mmgkd', 'mmengine', 'mmcv', 'mmdet')))  # importing them fails
import torch
import graphs
maps = torch.randn(2, 8, 6, 6)
terms = graphs.channel_graph_terms(maps, 2 * maps, num_eigenvectors=2)
assert all(term.isfinite().all() for term in terms.values())
'''
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60, cwd=tmp_path)
