"""Every combination of versions that is known to fail is named, with a command; the one under test passes."""
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mmgkd import environment
from mmgkd.environment import Environment, EnvironmentProblem, check_environment, find_problem
from mmgkd.installation import folder, installed

ROOT = Path(__file__).resolve().parents[1]
GOOD = Environment(
    versions={'torch': '2.13.0+cpu', 'mmengine': '0.10.12', 'mmcv': '2.3.6', 'mmdet': '3.5.1',
              'setuptools': '84.2.1'},
    providers={'torch': ('torch',), 'mmengine': ('onedl-mmengine',), 'mmcv': ('onedl-mmcv',),
               'mmdet': ('onedl-mmdetection',)})
OPENMMLAB = Environment(
    versions={'torch': '2.1.2', 'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0',
              'setuptools': '75.8.0'},
    providers={'torch': ('torch',), 'mmengine': ('mmengine',), 'mmcv': ('mmcv',), 'mmdet': ('mmdet',)})
MMDET_INIT = """\
mmcv_minimum_version = '2.0.0rc4'
mmcv_maximum_version = '2.2.0'
mmcv_version = digit_version(mmcv.__version__)

mmengine_minimum_version = '0.7.1'
mmengine_maximum_version = '1.0.0'
"""


def change(env, providers=None, without=(), **versions):
    kept = {module: number for module, number in (env.versions | versions).items() if module not in without}
    names = env.providers | {module: () for module in without} | (providers or {})
    return replace(env, versions=kept, providers=names)


def sources(**texts):
    by_path = {'mmdet/__init__.py': texts.get('mmdet', ''),
               'mmengine/runner/checkpoint.py': texts.get('checkpoint', ''),
               'mmengine/utils/package_utils.py': texts.get('package_utils', '')}
    return lambda path: by_path[path]


def failing(**errors):
    return lambda module: errors.get(module.replace('.', '__'))


@pytest.mark.parametrize('env', [
    GOOD,
    OPENMMLAB,
    replace(OPENMMLAB, source=sources(mmdet=MMDET_INIT)),
    change(OPENMMLAB, torch='2.5.1'),
    change(OPENMMLAB, {'mmengine': ('onedl-mmengine',)}, torch='2.6.0', mmengine='0.10.12'),
    replace(change(OPENMMLAB, torch='2.6.0'), environ={'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': '1'}),
    replace(change(OPENMMLAB, torch='2.6.0'), source=sources(checkpoint='torch.load(f, weights_only=False)')),
    replace(OPENMMLAB, source=sources(package_utils='import pkg_resources')),
])
def test_good_combinations_pass(env):
    assert find_problem(env) is None
    check_environment(env)


@pytest.mark.parametrize('module', ['torch', 'mmengine', 'mmcv', 'mmdet'])
def test_missing_module(module):
    problem = find_problem(change(GOOD, without=[module]))
    assert problem.found == f'{module} is not installed'
    assert environment.TESTED[module] in problem.mend
    assert 'uninstall' not in problem.mend
    assert ('--no-build-isolation' in problem.mend) == (module == 'mmcv')
    for other in {'mmengine', 'mmcv', 'mmdet'} - {module}:
        assert environment.TESTED[other] not in problem.mend


@pytest.mark.parametrize('torch', ['2.1.2', '2.5.1+cpu'])
@pytest.mark.parametrize('module', ['mmengine', 'mmcv', 'mmdet'])
def test_missing_module_of_openmmlabs_stack(module, torch):
    mend = find_problem(change(OPENMMLAB, torch=torch, without=[module])).mend
    assert f"'{environment.OPENMMLAB[module]}'" in mend
    assert 'uninstall' not in mend and 'onedl' not in mend
    assert ('--no-build-isolation' in mend) == (module == 'mmcv')
    assert ("'setuptools<82'" in mend) == (module != 'mmdet')
    for other in {'mmengine', 'mmcv', 'mmdet'} - {module}:
        assert environment.OPENMMLAB[other] not in mend


def test_missing_mmdet_is_one_command():
    assert find_problem(change(OPENMMLAB, without=['mmdet'])).mend == "python -m pip install 'mmdet>=3.0.0,<3.4'"


def steps(problem):
    return [step.removeprefix('python -m pip ') for step in problem.mend.split(' && \\\n    ')]


def test_missing_mmdet_with_a_newer_torch_changes_mmengine_alone():
    """mmcv is there, and compiled."""
    assert steps(find_problem(change(OPENMMLAB, torch='2.6.0', without=['mmdet']))) == [
        'uninstall -y mmengine', f"install {environment.TESTED['mmengine']} 'mmdet>=3.0.0,<3.4'"]


def test_missing_mmengine_with_a_newer_torch_is_the_fork_alone():
    assert steps(find_problem(change(OPENMMLAB, torch='2.6.0', without=['mmengine']))) == [
        f'install {environment.TESTED["mmengine"]}']


def test_missing_mmengine_where_torch_is_told_to_load_everything():
    env = replace(change(OPENMMLAB, torch='2.6.0', without=['mmengine']),
                  environ={'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD': 'yes'})
    assert steps(find_problem(env)) == [f"install '{environment.OPENMMLAB['mmengine']}' 'setuptools<82'"]


@pytest.mark.parametrize('env, removed', [
    (change(OPENMMLAB, torch='2.6.0', without=['mmcv']), 'mmengine mmdet'),
    (change(OPENMMLAB, {'mmengine': ('onedl-mmengine',)}, mmengine='0.10.12', without=['mmcv']), 'mmdet'),
    (change(OPENMMLAB, {'mmdet': ('onedl-mmdetection',)}, mmdet='3.5.1', without=['mmcv']), 'mmengine'),
    (change(OPENMMLAB, torch='2.6.0', mmcv='2.2.0', without=['mmdet']), 'mmengine mmcv'),
], ids=['newer torch', 'mmengine forked', 'mmdet forked', 'mmcv of no mmdet'])
def test_where_mmcv_has_to_be_a_fork_all_are(env, removed):
    """OpenMMLab's mmdet would refuse it, and it would bring the forked mmengine along."""
    first, *others = steps(find_problem(env))
    assert first == f'uninstall -y {removed}'
    assert environment.TESTED['mmcv'] in others[-1]
    for module in ('mmengine', 'mmdet'):
        forked = env.providers[module] == environment.DISTRIBUTIONS[module][:1]
        assert (environment.TESTED[module] in others[0]) == (not forked)


def test_an_empty_environment_gets_what_is_tested():
    env = change(GOOD, without=['mmengine', 'mmcv', 'mmdet'])
    assert all(environment.TESTED[module] in find_problem(env).mend for module in ('mmengine', 'mmcv', 'mmdet'))


def test_what_does_not_fit_is_mended_along():
    """mmdet 2 and mmcv 1 become mmdet 3 and mmcv 2 at once."""
    env = change(OPENMMLAB, {'mmcv': ('mmcv-full',)}, mmcv='1.7.2', mmdet='2.28.2')
    assert steps(find_problem(env)) == [
        'uninstall -y mmdet mmcv-full', "install 'mmdet>=3.0.0,<3.4'",
        "install 'setuptools<82' wheel ninja packaging psutil",
        "install --no-build-isolation --no-cache-dir 'mmcv>=2.0.0,<2.2.0'"]


@pytest.mark.parametrize('mmengine', ['0.10.6', '0.10.7'])
@pytest.mark.parametrize('torch', ['2.6.0', '2.13.0+cu130'])
def test_mmengine_that_cannot_load_its_checkpoints(torch, mmengine):
    problem = find_problem(change(OPENMMLAB, torch=torch, mmengine=mmengine))
    assert f'mmengine {mmengine} cannot load its own checkpoints with torch {torch}' in problem.found
    assert steps(problem) == ['uninstall -y mmengine', f'install {environment.TESTED["mmengine"]}']


def test_two_mmengines_are_both_removed():
    problem = find_problem(change(GOOD, {'mmengine': ('onedl-mmengine', 'mmengine')}, mmengine='0.10.7'))
    assert problem.found.startswith('mmengine 0.10.7 (from onedl-mmengine and mmengine) cannot load')
    assert 'uninstall -y onedl-mmengine mmengine' in problem.mend
    assert problem.mend.endswith(environment.TESTED['mmengine'])


def test_mmengine_that_registers_adafactor_twice():
    problem = find_problem(change(OPENMMLAB, torch='2.5.1', mmengine='0.10.5'))
    assert 'Adafactor' in problem.found
    assert steps(problem) == ['uninstall -y mmengine', "install 'mmengine>=0.10.6' 'setuptools<82'"]


def test_mmengine_without_pkg_resources():
    env = replace(change(OPENMMLAB, setuptools='82.0.0'),
                  source=sources(package_utils='import pkg_resources'),
                  import_error=failing(pkg_resources="No module named 'pkg_resources'"))
    problem = find_problem(env)
    assert 'mmengine 0.10.7 needs pkg_resources' in problem.found
    assert 'setuptools 82.0.0' in problem.found
    assert problem.mend == "python -m pip install 'setuptools<82'"


@pytest.mark.parametrize('provider, mmcv, family', [('mmcv', '2.2.0', 'OPENMMLAB'), ('onedl-mmcv', '2.3.6', 'TESTED')])
def test_mmdet_that_refuses_its_mmcv(provider, mmcv, family):
    env = replace(change(OPENMMLAB, {'mmcv': (provider,)}, mmcv=mmcv), source=sources(mmdet=MMDET_INIT))
    problem = find_problem(env)
    assert problem.found.startswith(f'mmdet 3.3.0 refuses mmcv {mmcv}')
    assert problem.found.endswith('it asks for >=2.0.0rc4, <2.2.0')
    wanted = getattr(environment, family)
    assert wanted['mmdet'] in problem.mend
    assert (wanted['mmcv'] in problem.mend) == (provider == 'mmcv'), 'compiled again without need'


def test_too_old():
    env = change(OPENMMLAB, {'mmcv': ('mmcv-full',)}, mmcv='1.7.2')
    assert 'mmcv 1.7.2 (from mmcv-full) is too old' in find_problem(env).found
    assert 'mmdet 2.28.2 is too old' in find_problem(change(OPENMMLAB, mmdet='2.28.2')).found


@pytest.mark.parametrize('provider, error, why', [
    ('mmcv-lite', "ModuleNotFoundError: No module named 'mmcv._ext'", 'installed without them'),
    ('onedl-mmcv', 'ImportError: undefined symbol: _ZN3c105ErrorC2E',
     'compiled against another torch than 2.13.0+cpu'),
])
def test_mmcv_without_operators(provider, error, why):
    env = replace(change(GOOD, {'mmcv': (provider,)}), import_error=failing(mmcv___ext=error))
    problem = find_problem(env)
    assert why in problem.found
    assert error in problem.found
    assert f'uninstall -y {provider}' in problem.mend
    assert f'--no-build-isolation --no-cache-dir {environment.TESTED["mmcv"]}' in problem.mend


@pytest.mark.parametrize('provider', ['mmcv', 'mmcv-lite'])
def test_openmmlabs_mmcv_without_operators(provider):
    env = replace(change(OPENMMLAB, {'mmcv': (provider,)}), import_error=failing(mmcv___ext='ImportError: symbol'))
    assert steps(find_problem(env)) == [
        f'uninstall -y {provider}', "install 'setuptools<82' wheel ninja packaging psutil",
        "install --no-build-isolation --no-cache-dir 'mmcv>=2.0.0,<2.2.0'"]


def test_mmcv_that_cannot_be_imported_without_a_screen():
    env = replace(GOOD, import_error=failing(mmcv='ImportError: libGL.so.1: cannot open shared object file'))
    assert find_problem(env).mend.endswith('opencv-python-headless')


def test_error_names_problem_versions_and_command():
    env = change(OPENMMLAB, torch='2.6.0')
    with pytest.raises(EnvironmentProblem) as caught:
        check_environment(env)
    assert isinstance(caught.value, ImportError)
    message = str(caught.value)
    assert 'cannot load its own checkpoints' in message
    assert 'Found: torch 2.6.0, mmengine 0.10.7, mmdet 3.3.0, mmcv 2.1.0.' in message
    assert message.rstrip().endswith(environment.TESTED['mmengine'])


def test_this_environment_passes_quickly():
    check_environment(installed())  # imports mmcv
    start = time.perf_counter()
    check_environment(installed())
    assert time.perf_counter() - start < 0.2  # takes 0.01 s


def test_a_folder_of_that_name_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / 'mere_folder').mkdir()
    (tmp_path / 'package').mkdir()
    (tmp_path / 'package/__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert folder('mere_folder') is None
    assert folder('package') == tmp_path / 'package'


def test_commands_name_the_versions_of_the_constraints():
    pins = set(re.findall(r'^[\w-]+==\S+', (ROOT / 'constraints.txt').read_text(), re.M))
    assert set(environment.TESTED.values()) <= pins
    extra = re.search(r"'openmmlab': \[(.+)\]", (ROOT / 'setup.py').read_text())[1].split("'")[1::2]
    assert extra == [*(environment.OPENMMLAB[module] for module in ('mmengine', 'mmcv', 'mmdet')),
                     environment.OLD_SETUPTOOLS]
