"""Reading checkpoints of every age, and none that would run code."""
import hashlib
import http.server
import os
import pathlib
import re
import threading
from functools import partial

import numpy as np
import pytest
import torch
from conftest import build, distiller, distiller_config, tiny

from mmgkd import checkpoint
from mmgkd.checkpoint import class_names, fetch, load_weights, local_rank

WEIGHTS = {'backbone.conv1.weight': torch.arange(6.).view(2, 3), 'neck.bias': torch.ones(2)}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)


@pytest.fixture
def save(tmp_path):
    def write(content, name='model.pth', **kwargs):
        torch.save(content, tmp_path / name, **kwargs)
        return str(tmp_path / name)
    return write


@pytest.fixture(params=['torch', 'older torch'])
def reader(request, monkeypatch):
    """Both ways of reading safely: torch's own with stand-ins, and the one that torch before 2.6 needs."""
    monkeypatch.setattr(checkpoint, 'TAKES_STAND_INS', request.param == 'torch')
    return request.param


LAYOUTS = {
    'bare': WEIGHTS,
    'mmdet2': dict(
        meta=dict(epoch=12, CLASSES=('a', 'b'), config='x = 1', time='now', seed=None, hook_msgs={}),
        state_dict=WEIGHTS, optimizer=dict(state={}, param_groups=[dict(lr=.02)])),
    'model': dict(model=WEIGHTS, epoch=3),
    'ddp': dict(state_dict={f'module.{k}': v for k, v in WEIGHTS.items()}),
    'numpy_meta': dict(state_dict=WEIGHTS, meta=dict(
        mAP=np.float64(.5), lr=np.float32(.1), step=np.int64(3), seen=np.zeros(3), done=np.bool_(True),
        boxes=np.zeros((2, 4), np.float32), ids=np.arange(4, dtype=np.int32))),
}


@pytest.mark.parametrize('old_format', [False, True])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(save, layout, old_format, reader):
    path = save(LAYOUTS[layout], _use_new_zipfile_serialization=not old_format)
    assert equal(load_weights(path, weights_only=False), WEIGHTS)
    assert class_names(path, weights_only=False) == (['a', 'b'] if layout == 'mmdet2' else [])
    if (layout, old_format, reader) == ('numpy_meta', True, 'older torch'):  # only ever in files newer than that
        with pytest.raises(ValueError, match='holds more than weights .*multiarray'):
            load_weights(path)
    else:
        assert equal(load_weights(path), WEIGHTS)


@pytest.mark.parametrize('hooks', [[], [dict(type='EMAHook')]], ids=['plain', 'ema'])
def test_mmengines_own_checkpoints(train, hooks, reader):
    """With log histories, optimiser, schedules and validation scores beside the weights."""
    runner = train(tiny('retinanet'), val=True, custom_hooks=hooks,
                   param_scheduler=[dict(type='LinearLR', start_factor=.1, by_epoch=False, end=2),
                                    dict(type='MultiStepLR', milestones=[8, 11])],
                   default_hooks=dict(checkpoint=dict(save_best='coco/bbox_mAP', rule='greater')))
    path = f'{runner.work_dir}/epoch_1.pth'
    whole = torch.load(path, weights_only=False)
    assert whole['message_hub']['log_scalars'] and whole['optimizer']
    assert equal(load_weights(path), whole['state_dict'])


def test_a_distillers_checkpoint_is_a_teacher(train, tmp_path):
    runner = train(distiller_config(tiny('retinanet'), dict(config=tiny('retinanet'))))
    model = distiller(tiny('retinanet'), dict(
        config=tiny('retinanet'), checkpoint=f'{runner.work_dir}/epoch_1.pth', allow_random=False))
    trained, loaded = runner.model.student.neck.state_dict(), model.teacher.detector.neck.state_dict()
    assert equal(loaded, trained)


def test_loaded_on_the_cpu(save):
    assert {v.device.type for v in load_weights(save(WEIGHTS)).values()} == {'cpu'}


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Attribute:
    """Reaches for a function through ``getattr`` when it is unpickled."""

    def __init__(self, owner, name):
        self.parts = owner, name

    def __reduce__(self):
        return getattr, self.parts

    def __call__(self, *args):
        raise AssertionError('only what it is unpickled to is called')


class Called(Attribute):
    """And calls it."""

    def __reduce__(self):
        return Attribute(*self.parts[:2]), self.parts[2:]

    def __init__(self, *parts):
        self.parts = parts


@pytest.mark.parametrize('place', ['meta', 'state_dict'])
@pytest.mark.parametrize('old_format', [False, True])
def test_code_does_not_run(save, tmp_path, place, old_format, reader):
    content = dict(state_dict=dict(WEIGHTS), meta={})
    content[place]['x'] = Bomb(tmp_path / 'boom')
    path = save(content, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ValueError, match='more than weights .*mkdir.*weights_only=False'):
        load_weights(path)
    assert not (tmp_path / 'boom').exists()
    assert equal(load_weights(path, weights_only=False), WEIGHTS)  # where its source is trusted
    assert (tmp_path / 'boom').exists()


@pytest.mark.parametrize('owner, name', [(torch.Tensor, 'numpy'), (np.ndarray, 'tofile'), (dict, 'fromkeys')])
def test_getattr_is_no_way_out(save, tmp_path, owner, name, reader):
    """MMEngine's log histories need ``getattr``, which reaches everything there is."""
    for gadget in (Attribute(owner, name), Called(owner, name, str(tmp_path / 'boom'))):
        with pytest.raises(ValueError, match='more than weights'):
            load_weights(save(dict(state_dict=WEIGHTS, meta=gadget)))
    assert not (tmp_path / 'boom').exists()


def test_getattr_of_a_history_is_inert(save, reader):
    from mmengine.logging import HistoryBuffer
    path = save(dict(state_dict=WEIGHTS, meta=Attribute(HistoryBuffer, '__init__')))
    assert equal(load_weights(path), WEIGHTS)


def test_nothing_stays_allowed_afterwards(save, reader):
    before = set(torch.serialization.get_safe_globals())
    load_weights(save(WEIGHTS))
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_program_is_not_run(tmp_path, reader):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / 'model.pth')
    with pytest.raises(ValueError, match='model.pth.* cannot be read .*TorchScript'):
        load_weights(str(tmp_path / 'model.pth'))


@pytest.mark.parametrize('content', [
    {}, [], [torch.ones(2)], torch.ones(2), dict(state_dict={}), dict(epoch=3), dict(state_dict=dict(a=1)),
    {0: torch.ones(2)}], ids=str)
def test_no_weights(save, content, reader):
    with pytest.raises(ValueError, match='model.pth.* holds no weights'):
        load_weights(save(content))


@pytest.mark.parametrize('weights_only', [True, False])
@pytest.mark.parametrize('old_format', [False, True])
@pytest.mark.parametrize('share', [0, .001, .02, .2, .5, .9, .99])
def test_truncated(save, share, old_format, weights_only, reader):
    path = save(dict(state_dict={f'backbone.{i}': torch.randn(100) for i in range(20)}),
                _use_new_zipfile_serialization=not old_format)
    data = pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(data[:int(share * len(data))])
    with pytest.raises(ValueError, match='model.pth'):
        load_weights(path, weights_only=weights_only)


@pytest.mark.parametrize('weights_only', [True, False])
@pytest.mark.parametrize('data', [
    b'<!DOCTYPE html><html>404</html>', b'version https://git-lfs.github.com/spec/v1\n', b'\0' * 100],
    ids=['html', 'lfs', 'zeros'])
def test_no_checkpoint_at_all(tmp_path, data, weights_only, reader):
    (tmp_path / 'model.pth').write_bytes(data)
    with pytest.raises(ValueError, match='model.pth') as error:
        load_weights(str(tmp_path / 'model.pth'), weights_only=weights_only)
    assert 'more than weights' not in str(error.value) and 'weights_only=False' not in str(error.value)


@pytest.mark.parametrize('path', ['nowhere/model.pth', ''])
def test_no_file(path):
    with pytest.raises(FileNotFoundError, match='no checkpoint .*looked in '):
        load_weights(path)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        load_weights(str(tmp_path))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, its address, and a list of what was asked for."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)
    asked, folder = [], tmp_path / 'www'
    folder.mkdir()
    old = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / 'hub'))
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(.02,), daemon=True).start()
        yield folder, f'http://127.0.0.1:{httpd.server_port}', asked
        httpd.shutdown()
    torch.hub.set_dir(old)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept():
    return sorted(os.listdir(os.path.join(torch.hub.get_dir(), 'checkpoints')))


@pytest.mark.parametrize('name', ['model.pth', 'model', 'model-{sha}.pth', 'model_20200504_210455-{sha}.pth'])
def test_a_url_is_downloaded_once(server, name):
    folder, address, asked = server
    torch.save(WEIGHTS, folder / 'x')
    name = name.format(sha=digest(folder / 'x')[:8])
    (folder / 'x').rename(folder / name)
    for _ in range(2):
        assert equal(load_weights(f'{address}/{name}'), WEIGHTS)
    assert asked == [f'/{name}']


def test_a_file_named_by_its_digest_is_shared_with_torch(server):
    """Wherever it comes from, it is the same."""
    folder, address, asked = server
    torch.save(WEIGHTS, folder / 'x')
    name = f'model-{digest(folder / "x")[:8]}.pth'
    (folder / 'x').rename(folder / name)
    for url in (f'{address}/{name}', f'{address}/mirror/{name}', f'{address}/{name}?download=true'):
        assert equal(load_weights(url), WEIGHTS)
    assert asked == [f'/{name}'] and kept() == [name]


def test_files_of_one_name_are_kept_apart(server):
    folder, address, _ = server
    urls = []
    for i in range(2):
        (folder / str(i)).mkdir()
        torch.save({'a': torch.full((2,), i)}, folder / str(i) / 'epoch_12.pth')
        urls.append(f'{address}/{i}/epoch_12.pth')
    for _ in range(2):
        assert [load_weights(url)['a'][0].item() for url in urls] == [0, 1]
    assert len(kept()) == 2 and all(re.fullmatch(r'epoch_12_[0-9a-f]{16}\.pth', name) for name in kept())


def test_a_query_is_not_part_of_the_name(server):
    folder, address, _ = server
    torch.save(WEIGHTS, folder / 'model.pth')
    local = [fetch(f'{address}/model.pth?version={i}') for i in range(2)]
    assert all(re.search(r'/model_[0-9a-f]{16}\.pth$', name) for name in local)
    assert local[0] != local[1]  # it may well choose what is sent


def test_a_wrong_digest_is_refused_and_not_kept(server):
    folder, address, _ = server
    torch.save(WEIGHTS, folder / 'model-0123abcd.pth')
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match='cannot download .*0123abcd'):
            load_weights(f'{address}/model-0123abcd.pth')
    assert kept() == []


def test_a_date_is_no_digest(server):
    folder, address, _ = server
    torch.save(WEIGHTS, folder / 'model-20240101.pth')
    assert equal(load_weights(f'{address}/model-20240101.pth'), WEIGHTS)
    assert len(kept()) == 1 and re.fullmatch(r'model-20240101_[0-9a-f]{16}\.pth', kept()[0])


@pytest.mark.parametrize('variables, rank', [
    (dict(), 0), (dict(LOCAL_RANK='3', SLURM_LOCALID='0'), 3), (dict(SLURM_LOCALID='2'), 2),
    (dict(OMPI_COMM_WORLD_LOCAL_RANK='1'), 1)])
def test_one_process_of_a_machine_downloads(server, monkeypatch, variables, rank):
    """Whatever started it, and before MMEngine knows of it."""
    folder, address, asked = server
    for name in ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    torch.save(WEIGHTS, folder / 'model.pth')
    assert local_rank() == rank
    if rank == 0:
        assert equal(load_weights(f'{address}/model.pth'), WEIGHTS)
    else:
        with pytest.raises(FileNotFoundError, match='cannot download'):  # nobody else did
            load_weights(f'{address}/model.pth')
    assert len(asked) == (rank == 0)


def test_a_url_that_is_not_there(server):
    _, address, _ = server
    with pytest.raises(FileNotFoundError, match='cannot download .*404.* put it at .*/model_[0-9a-f]{16}.pth'):
        load_weights(f'{address}/model.pth')


def test_a_file_put_where_the_message_says_is_used(server):
    url = 'http://127.0.0.1:1/model.pth'
    with pytest.raises(FileNotFoundError) as error:
        load_weights(url)
    torch.save(WEIGHTS, str(error.value).rpartition('put it at ')[2])
    assert equal(load_weights(url), WEIGHTS)


def test_the_distiller_takes_a_url(server):
    folder, address, _ = server
    torch.save(dict(state_dict=build(tiny()).state_dict()), folder / 'teacher.pth')
    model = distiller(teacher=dict(checkpoint=f'{address}/teacher.pth', allow_random=False))
    assert model.teacher.detector is not None
