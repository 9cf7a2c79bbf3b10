"""A pickle may name what stands in the list; whatever else it names is neither imported nor called."""
import collections
import inspect
import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmgkd import unpickling


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def load(data):
    return unpickling.Unpickler(io.BytesIO(data)).load()


def assembled(*parts):
    """A pickle of protocol 2 from opcodes, with the objects among the parts pickled."""
    return b'\x80\x02' + b''.join(p if isinstance(p, bytes) else pickle.dumps(p, 2)[2:-1] for p in parts) + b'.'


def named(module, name):
    return f'c{module}\n{name}\n'.encode()


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('gadget', [
    Call(os.system, 'touch boom'), Call(subprocess.check_output, ['touch', 'boom']),
    Call(eval, 'open("boom", "w")'), Call(exec, 'open("boom", "w")'), Call(open, 'boom', 'w'), Call(__import__, 'os'),
    Call(torch.load, 'x'), Call(torch.storage._load_from_bytes, b''), Call(np.fromfile, 'x'), Call(pickle.loads, b''),
    Call(getattr, np.ndarray, 'tofile'), Call(getattr, dict, 'fromkeys'), Call(setattr, HistoryBuffer, 'mean', 1),
    os.system, sys.exit, collections.OrderedDict.fromkeys,
], ids=lambda gadget: getattr(gadget, 'reduced', (gadget,))[0].__name__)
def test_what_is_not_listed_is_refused(gadget, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=r'^GLOBAL \S+'):
        load(pickle.dumps(dict(state_dict={}, meta=gadget), protocol))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('name', [
    'HistoryBuffer.__init__.__globals__', 'HistoryBuffer.mean', 'np', 'HistoryBuffer.__class__'])
def test_dots_in_a_name_lead_nowhere(name):
    """Since protocol 4 a name may be a path of attributes."""
    parts = [part.encode() for part in ('mmengine.logging.history_buffer', name)]
    with pytest.raises(pickle.UnpicklingError, match='GLOBAL mmengine.logging.history_buffer'):
        load(b'\x80\x04' + b''.join(b'\x8c' + bytes([len(part)]) + part for part in parts) + b'\x93.')


def test_getattr_of_a_module_is_refused():
    with pytest.raises(pickle.UnpicklingError, match='GLOBAL os.path'):
        load(assembled(named('builtins', 'getattr'), b'(', named('os', 'path'), 'system', b'tR'))


@pytest.mark.parametrize('where', [b'', b'N'], ids=['__dict__', 'setattr'])
@pytest.mark.parametrize('name', sorted(unpickling.ALLOWED))
def test_a_name_cannot_be_changed(name, where):
    """The opcode BUILD sets attributes of whatever was named, in this process, for good."""
    target = unpickling.ALLOWED[name]
    before = [key for key, _ in inspect.getmembers(target)]
    state = (b'N', {'boom': 1}, b'\x86') if where else ({'boom': 1},)
    with pytest.raises((pickle.UnpicklingError, TypeError, AttributeError)):
        load(assembled(named(*name.rsplit('.', 1)), *state, b'b'))
    assert [key for key, _ in inspect.getmembers(target)] == before


def test_only_tensors_and_dicts_are_built():
    rebuilt = [value for value in unpickling.ALLOWED.values() if value not in (unpickling.Inert, unpickling.Record)]
    assert [type(value).__name__ for value in rebuilt] == ['Function', 'type', 'Function', 'Function']


@pytest.mark.parametrize('value', [
    HistoryBuffer([1., 2.], [1, 1]), np.float64(3), np.float32(3), np.bool_(True), np.zeros((2, 3)), np.zeros(3, '<i2'),
    np.array(['a', 'b']), np.array([dict(a=1), None]), np.dtype('f8'), slice(1, 2), {1, 2}, 1j, b'bytes', b'',
    bytearray(b'x'), collections.Counter([8, 11]), torch.Size([1]), torch.device('cpu'), torch.float32,
    torch.bfloat16], ids=lambda value: repr(value).partition(' object at ')[0])  # the same in each process
def test_what_training_writes_is_left_out(value):
    """``torch.save`` writes protocol 2."""
    found = load(pickle.dumps(dict(before=1, x=value, y=[value], after=2), 2))
    assert (found['before'], found['after']) == (1, 2)
    assert isinstance(found['x'], unpickling.Inert) or found['x'] is unpickling.Inert


def test_dicts_keep_their_order_and_attributes():
    content = collections.OrderedDict(b=1, a=collections.OrderedDict(c=2))
    content._metadata = dict(version=2)
    found = load(pickle.dumps(content, 2))
    assert found == content and found._metadata == content._metadata


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_are_rebuilt(dtype, tmp_path):
    base = torch.arange(12).view(3, 4).to(dtype)
    content = dict(whole=base, part=base[1:, ::2], turned=base.t(), one=base[0, 1])
    if dtype.is_floating_point:
        content['trained'] = torch.nn.Parameter(base)
    torch.save(content, tmp_path / 'x.pth')
    found = torch.load(tmp_path / 'x.pth', map_location='cpu', pickle_module=unpickling, weights_only=False)
    for key, value in content.items():
        assert torch.equal(found[key], value) and found[key].dtype == dtype
        assert found[key].stride() == value.stride()
    assert found['whole'].data_ptr() == found['turned'].data_ptr()
