"""What a distiller's checkpoint looks like: a plain detector's, so that it loads in either."""
from __future__ import annotations

from torch import nn

__all__ = ['keep_plain_keys', 'plain_name']

OWN = ('connector.', 'distill_losses.')
"""Keys that only a distiller has; they are saved too, so that training can resume."""
STUDENT = 'student.'


def plain_name(name: str, prefix: str = '') -> str:
    """What a parameter of a distiller, which stands under ``prefix``, is called in a plain detector."""
    inner = prefix + STUDENT
    return prefix + name.removeprefix(inner) if name.startswith(inner) else name


def keep_plain_keys(distiller: nn.Module) -> None:
    """Save the student's weights under a plain detector's keys, and load them from there.

    A checkpoint of a plain detector loads as well: what only the distiller has then keeps its initial values.
    """
    distiller._register_state_dict_hook(_to_plain)
    distiller._register_load_state_dict_pre_hook(_from_plain, with_module=True)
    distiller.register_load_state_dict_post_hook(_forgive_own)


def _to_plain(module, destination, prefix, _local_metadata):
    inner = prefix + STUDENT
    items = list(destination.items())
    destination.clear()
    for key, value in items:  # all of them, to keep their order
        destination[plain_name(key, prefix)] = value
    metadata = getattr(destination, '_metadata', {})  # module versions, for both ways of loading
    for key in [k for k in metadata if k.startswith(inner)]:
        metadata[plain_name(key, prefix)] = metadata[key]


def _from_plain(module, state_dict, prefix, _local_metadata, _strict, _missing, _unexpected, _errors):
    keys = [k for k in state_dict if k.startswith(prefix)]
    resting = module.connector is None  # see Distiller
    module.overwritten = None if module.overwritten is None else True
    has_own = any(k.startswith(prefix + own) for k in keys for own in OWN)
    module._loads_plain = prefix if resting or not has_own else None
    for key in keys:
        name = key.removeprefix(prefix)
        if name.startswith(OWN) and resting:
            del state_dict[key]
        elif not name.startswith((*OWN, STUDENT)):
            state_dict[prefix + STUDENT + name] = state_dict.pop(key)
    metadata = getattr(state_dict, '_metadata', None)
    for key in list(metadata or ()):
        if key.startswith(prefix) and not (key + '.').startswith(tuple(prefix + own for own in (*OWN, STUDENT))):
            metadata.setdefault(prefix + STUDENT + key.removeprefix(prefix), metadata[key])
    known = {prefix + STUDENT + name for name, _ in module.student.named_parameters()}
    if known.isdisjoint(state_dict):
        raise ValueError('the checkpoint holds no weight of the student: its first keys are '
                         f'{keys[:3]}, the student\'s {sorted(k.removeprefix(prefix + STUDENT) for k in known)[:3]}. '
                         'Is it a checkpoint of this detector?')


def _forgive_own(module, incompatible):
    prefix = module._loads_plain
    if prefix is not None:
        own = tuple(prefix + name for name in OWN)
        incompatible.missing_keys[:] = [k for k in incompatible.missing_keys if not k.startswith(own)]
