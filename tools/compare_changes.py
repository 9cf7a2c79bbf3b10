"""What is changed in a row of a comparison: ``key=value``, in its place or by a name that one place knows alone."""
from __future__ import annotations

import contextlib
import difflib
import inspect
import math
from collections.abc import Iterator

from mmengine.config import Config, DictAction
from mmengine.registry import DATASETS, HOOKS, LOOPS, MODELS, OPTIM_WRAPPERS, OPTIMIZERS

REGISTRIES = (MODELS, DATASETS, HOOKS, LOOPS, OPTIM_WRAPPERS, OPTIMIZERS)


def make_change(cfg: Config, text: str) -> None:
    """Set what ``key=value`` says, read as --cfg-options reads it; or multiply by what ``weights*=factor`` says.

    A key is a path, ``model.distill_losses.gkd.edge_weight``, or a name without dots that one part knows alone:
    a distillation loss, the model, a hook, the loop or the data set of training.

    Raises:
        SystemExit: There is no such place, or there are several.
    """
    key, _, value = text.partition('=')
    if key.endswith('*'):
        return scale_weights(cfg, text)
    cfg.merge_from_dict({_whole(cfg, key, text): DictAction._parse_iterable(value)})


def scale_weights(cfg: Config, text: str) -> None:
    """Multiply each weight of each distillation loss."""
    key, _, value = text.partition('*=')
    try:
        factor = float(value)
    except ValueError:
        factor = 0.
    if key != 'weights' or not 0 < factor < math.inf:
        raise SystemExit(f'tools/compare.py: {text}: expected weights*= and a factor above 0, such as weights*=4')
    given = [(loss, name) for loss in cfg.model.get('distill_losses', {}).values() for name in loss
             if name.endswith('_weight') and loss[name] is not None]
    if not given:
        raise SystemExit(f'tools/compare.py: {text}: there is no distillation loss whose config gives a weight')
    for loss, name in given:
        loss[name] = float(f'{factor * loss[name]:.12g}')  # 3 * 0.1 is 0.3


def _whole(cfg: Config, key: str, text: str) -> str:
    """The path of a key, whose place is there and takes it."""
    scope = cfg.get('default_scope', 'mmdet')
    if '.' in key or key in cfg:
        _check_place(cfg, key, text, scope)
        return key
    known = {path: {*part, *(arguments(part, scope) or ())} for path, part in _parts(cfg)}
    found = [f'{path}.{key}' for path, names in known.items() if key in names]
    if len(found) == 1:
        return found[0]
    if found:
        raise SystemExit(f'tools/compare.py: {text}: {key} may be {" or ".join(found)}: give the whole path')
    raise SystemExit(f'tools/compare.py: {text}: neither a distillation loss nor the model, a hook, the loop or the '
                     f'data set of training knows {key!r}{_meant(key, sorted(set().union(*known.values())))}. Other '
                     'places are given as a path, such as optim_wrapper.optimizer.lr')


def _check_place(cfg: Config, key: str, text: str, scope: str) -> None:
    place = cfg
    *way, last = key.split('.')
    for part in way:
        try:
            place = place[int(part)] if isinstance(place, (list, tuple)) else place[part]
        except (IndexError, KeyError, TypeError, ValueError, AttributeError):
            raise SystemExit(f'tools/compare.py: {text}: the config has no {part!r} there') from None
    known = arguments(place, scope) if isinstance(place, dict) else None
    if known is not None and last not in known and last not in place and not last.startswith('_'):
        raise SystemExit(f'tools/compare.py: {text}: {place["type"]} has no {last!r}{_meant(last, known)}; it has '
                         f'{", ".join(known)}')


def _parts(cfg: Config) -> Iterator[tuple[str, dict]]:
    """The parts that are known by name, and where they are."""
    losses = cfg.model.get('distill_losses', {})
    places = [*(f'model.distill_losses.{name}' for name in losses), 'model', 'train_cfg', 'train_dataloader.dataset',
              *(f'custom_hooks.{i}' for i in range(len(cfg.get('custom_hooks') or ())))]
    for path in places:
        part = cfg
        for name in path.split('.'):
            part = part[int(name)] if isinstance(part, (list, tuple)) else part.get(name, {})
        yield path, part


def arguments(part: dict, scope: str) -> list[str] | None:
    """What the class of a part takes, with what it hands on; None if that cannot be told.

    Args:
        part (dict): With a ``type``.
        scope (str): Where that is found, such as ``mmdet``.
    """
    kind = part.get('type')
    for registry in REGISTRIES:
        if not isinstance(kind, str):
            break
        with contextlib.suppress(ImportError, KeyError), registry.switch_scope_and_registry(scope) as inner:
            kind = inner.get(kind) or kind
    if not inspect.isclass(kind):
        return None
    names: list[str] = []
    for base in kind.__mro__:
        if '__init__' not in vars(base):
            continue
        taken = list(inspect.signature(base.__init__).parameters.values())[1:]
        names += [each.name for each in taken if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        if not any(each.kind == each.VAR_KEYWORD for each in taken):
            return list(dict.fromkeys(names))
    return None


def _meant(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f' (meant {close[0]}?)' if close else ''
