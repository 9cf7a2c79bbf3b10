"""Says in one error why mmgkd cannot run in an environment, with the command that mends it.

torch, mmengine, mmcv and mmdet come in combinations that install without complaint and fail later, far from
the cause. Each check looks at an `Environment` only, so that a test can make any combination up.
"""
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ['Environment', 'EnvironmentProblem', 'Problem', 'check_environment', 'find_problem']

# What the commands install. The same versions stand in constraints.txt; a test compares the two.
TESTED = {
    'torch': 'torch==2.13.0',
    'mmengine': 'onedl-mmengine==0.10.12',
    'mmdet': 'onedl-mmdetection==3.5.1',
    'mmcv': 'onedl-mmcv==2.3.6',
}

# What goes together of OpenMMLab's. The same stands in setup.py's extra; a test compares the two.
OPENMMLAB = {
    'mmengine': 'mmengine>=0.10.6',
    'mmdet': 'mmdet>=3.0.0,<3.4',
    'mmcv': 'mmcv>=2.0.0,<2.2.0',
}
OLD_SETUPTOOLS = 'setuptools<82'  # with pkg_resources: OpenMMLab's mmengine needs it to run, their mmcv to be built

STACK = ('mmengine', 'mmdet', 'mmcv')

# The distributions that bring each module, the maintained one first.
DISTRIBUTIONS = {
    'torch': ('torch',),
    'mmengine': ('onedl-mmengine', 'mmengine', 'mmengine-lite'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite', 'mmcv-full'),
}


class EnvironmentProblem(ImportError):
    """The installed versions do not work together."""


class Problem(NamedTuple):
    found: str
    mend: str


@dataclass(frozen=True)
class Environment:
    """What the checks look at."""
    versions: Mapping[str, str]  # module -> version, without the modules that are not there
    providers: Mapping[str, tuple[str, ...]]  # module -> names of the installed distributions that bring it
    source: Callable[[str], str] = lambda path: ''  # 'mmdet/__init__.py' -> its text, '' where there is none
    import_error: Callable[[str], str | None] = lambda module: None
    environ: Mapping[str, str] = field(default_factory=dict)

    def release(self, module):
        return release(self.versions[module])

    def name(self, module):
        """'mmengine 0.10.7', with the distributions where these are not named like the module."""
        dists = self.providers.get(module, ())
        origin = f' (from {" and ".join(dists)})' if set(dists) - {module} else ''
        return f'{module} {self.versions[module]}{origin}'

    def __str__(self):
        return ', '.join(self.name(module) if module in self.versions else f'no {module}'
                         for module in DISTRIBUTIONS)


def release(text):
    """'2.13.0+cpu' -> (2, 13, 0)."""
    numbers = re.match(r'\d+(\.\d+)*', text)
    return tuple(int(number) for number in numbers.group().split('.')) if numbers else ()


# ---- what works with what

def loads_everything(env):
    """Whether torch reads more than weights where it is not told what to read."""
    return (env.release('torch') < (2, 6)
            or env.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '').lower() in ('1', 'y', 'yes', 'true'))


def loads_checkpoints(env):
    """Whether the mmengine that is there loads its own."""
    return (loads_everything(env) or env.release('mmengine') >= (0, 10, 8)
            or 'weights_only' in env.source('mmengine/runner/checkpoint.py'))  # patched by hand


def starts(env):
    """Whether the mmengine that is there can be imported with this torch."""
    return env.release('torch') < (2, 5) or env.release('mmengine') >= (0, 10, 6)


def fits(env, module):
    """Whether a module of the stack is there and can stay beside OpenMMLab's."""
    if module not in env.versions:
        return False
    if module == 'mmengine':
        return loads_checkpoints(env) and starts(env)
    if module == 'mmcv':
        return (2,) <= env.release('mmcv') < (2, 2) and 'mmcv-lite' not in env.providers.get('mmcv', ())
    return env.release('mmdet') >= (3,)


def forks(env, *modules):
    return [name for module in modules for name in env.providers.get(module, ()) if name.startswith('onedl-')]


def stays_openmmlab(env, rebuild):
    """Whether what is missing can come from OpenMMLab, and the rest of the stack is OpenMMLab's.

    mmdet says which mmcv it takes, so that these two come from one hand. Of mmengine, which goes with either, pip
    puts OpenMMLab's beside their mmcv.
    """
    names = [name for module in STACK for name in env.providers.get(module, ())]
    if forks(env, 'mmcv', 'mmdet') or len(forks(env, *STACK)) == len(names):
        return False
    if 'mmcv' in rebuild or not fits(env, 'mmcv'):  # to be compiled, which is not tried with a newer torch
        return env.release('torch') < (2, 6) and not forks(env, 'mmengine')
    return True


# ---- the mending commands

def pip(command, *requirements):
    return ' '.join(['python -m pip', command, *map(shlex.quote, requirements)])


def replace(env, modules, rebuild=()):
    """Command that leaves one working distribution of each module, and no other one, installed.

    That is OpenMMLab's in a stack of theirs where it can work, else the tested one. Two distributions that bring the
    same files cannot be taken apart: both are removed and one comes anew.
    """
    openmmlab = stays_openmmlab(env, rebuild)
    remove, install = [], {}
    for module in modules:
        present = env.providers.get(module, ())
        stays = fits(env, module) if openmmlab else present == DISTRIBUTIONS[module][:1]
        if module in rebuild or not stays:
            remove += present
            works = module != 'mmengine' or loads_everything(env) and not forks(env, 'mmengine')
            install[module] = (OPENMMLAB if openmmlab and works else TESTED)[module]
    steps = [pip('uninstall -y', *remove)] if remove else []
    mmcv = install.pop('mmcv', None)
    if pure := list(install.values()):
        steps.append(pip('install', *pure, *[OLD_SETUPTOOLS] * (OPENMMLAB['mmengine'] in pure)))
    if mmcv:  # compiled against the torch that is there; pip may have kept one for another torch
        setuptools = OLD_SETUPTOOLS if openmmlab else 'setuptools'
        steps.append(pip('install', setuptools, 'wheel', 'ninja', 'packaging', 'psutil'))
        steps.append(pip('install --no-build-isolation --no-cache-dir', mmcv))
    return ' && \\\n    '.join(steps)


# ---- the checks, in the order in which they matter

def torch_is_there(env):
    if 'torch' not in env.versions:
        return Problem('torch is not installed', pip('install', TESTED['torch']))


def mmengine_is_there(env):
    if 'mmengine' not in env.versions:
        return Problem('mmengine is not installed', replace(env, STACK, rebuild=('mmengine',)))


def mmengine_loads_its_checkpoints(env):
    if not loads_checkpoints(env):
        return Problem(
            f'{env.name("mmengine")} cannot load its own checkpoints with torch {env.versions["torch"]}: since '
            '2.6 torch reads weights only unless told otherwise, and mmengine up to 0.10.7 does not tell it',
            replace(env, ('mmengine',), rebuild=('mmengine',)))


def mmengine_starts(env):
    if not starts(env):
        torch = env.versions['torch']
        return Problem(
            f'{env.name("mmengine")} cannot be imported with torch {torch}: Adafactor is already registered',
            replace(env, ('mmengine',), rebuild=('mmengine',)))


def mmengine_finds_packages(env):
    if 'pkg_resources' in env.source('mmengine/utils/package_utils.py') and env.import_error('pkg_resources'):
        return Problem(
            f'{env.name("mmengine")} needs pkg_resources for every config named mmdet::..., and setuptools '
            f'{env.versions.get("setuptools", "(none)")} has none: it was removed in setuptools 82',
            pip('install', OLD_SETUPTOOLS))


def mmcv_is_there(env):
    if 'mmcv' not in env.versions:
        return Problem('mmcv is not installed', replace(env, STACK, rebuild=('mmcv',)))
    if env.release('mmcv') < (2,):
        return Problem(f'{env.name("mmcv")} is too old: MMDetection 3 needs mmcv 2',
                       replace(env, STACK, rebuild=('mmcv',)))


def mmdet_is_there(env):
    if 'mmdet' not in env.versions:
        return Problem('mmdet is not installed', replace(env, STACK, rebuild=('mmdet',)))
    if env.release('mmdet') < (3,):
        return Problem(f'{env.name("mmdet")} is too old: mmgkd needs MMDetection 3',
                       replace(env, STACK, rebuild=('mmdet',)))


def mmdet_takes_its_companions(env):
    """OpenMMLab's mmdet asserts, when imported, that mmcv and mmengine lie between two versions."""
    text = env.source('mmdet/__init__.py')
    for module in ('mmcv', 'mmengine'):
        bounds = [re.search(rf"^{module}_{bound}_version = '(.+)'", text, re.M)
                  for bound in ('minimum', 'maximum')]
        if None in bounds:
            continue
        low, high = (bound.group(1) for bound in bounds)
        if not release(low) <= env.release(module) < release(high):
            return Problem(f'{env.name("mmdet")} refuses {env.name(module)}: it asks for >={low}, <{high}',
                           replace(env, STACK, rebuild=('mmdet',)))


def mmcv_has_operators(env):
    rebuild = replace(env, STACK, rebuild=('mmcv',))
    if error := env.import_error('mmcv'):
        if 'libGL' in error:  # no screen, no libGL; another OpenCV does without
            rebuild = pip('install --force-reinstall --no-deps opencv-python-headless')
        return Problem(f'{env.name("mmcv")} cannot be imported: {error}', rebuild)
    if error := env.import_error('mmcv._ext'):
        why = ('it was installed without them' if "No module named 'mmcv._ext'" in error
               else f'they were compiled against another torch than {env.versions["torch"]}')
        return Problem(f'{env.name("mmcv")} has no usable compiled operators: {why} ({error})', rebuild)


CHECKS = (torch_is_there, mmengine_is_there, mmcv_is_there, mmdet_is_there, mmengine_loads_its_checkpoints,
          mmengine_starts, mmengine_finds_packages, mmdet_takes_its_companions, mmcv_has_operators)


def find_problem(env):
    """The first problem of the environment, or None."""
    return next((problem for check in CHECKS if (problem := check(env))), None)


def check_environment(env):
    """Raises `EnvironmentProblem` where these versions cannot work together."""
    if problem := find_problem(env):
        raise EnvironmentProblem(f'{problem.found}.\n  Found: {env}.\n  To mend it:\n    {problem.mend}')
