"""Two processes train together: nobody waits for a gradient that does not come, and both end up alike."""
import datetime
import http.server
import os
import threading
import time
import traceback
from functools import partial

import pytest
import torch
from conftest import distiller, neck, raw_batch, tiny
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from mmgkd.checkpoint import load_weights

LIMIT = 150
"""Seconds for everything, after which a process is taken to hang."""
WIDER = dict(config=tiny(**neck(24)))
MODELS = {
    'identity': dict(),
    'conv': dict(teacher=WIDER),
    'conv with norm': dict(teacher=WIDER, connector=dict(type='NeckConnector', norm_cfg=dict(type='BN'))),
    'mask': dict(student=tiny('mask_rcnn'), teacher=WIDER),
    'predictions': dict(teacher=WIDER, distill_losses=dict(kd=dict(type='KLLoss'), dist=dict(type='DISTLoss'))),
    'box distributions': dict(student=tiny('gfl'), teacher=dict(config=tiny('gfl')), distill_losses=dict(
        kd=dict(type='KLLoss'), ld=dict(type='LDLoss'))),
    'detr': dict(student=tiny('detr'), teacher=dict(config=tiny('detr'))),
}
STEPS = [(1., None), (.5, [0, 3]), (0., [2, 0]), (0., None)]
"""Weight of distillation, and how many boxes the images of rank 1 have."""


def train(rank, kwargs):
    """What a rank holds in the end."""
    model = distiller(**kwargs)
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    ddp = MMDistributedDataParallel(model, find_unused_parameters=False, broadcast_buffers=False)
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    gradients = []
    optim.optimizer.register_step_pre_hook(lambda *_: gradients.append(
        torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])))
    for step, (weight, boxes) in enumerate(STEPS):
        model.distill_weight = weight
        torch.manual_seed(10 * step + rank)
        batch = raw_batch(((64, 64), (64, 48)) if rank else ((48, 64), (40, 64)), boxes if rank else None)
        batch['inputs'] = [x + 3 * step for x in batch['inputs']]
        log = ddp.train_step(batch, optim)
        assert all(v.isfinite().all() for v in log.values())
    end = torch.cat([p.detach().flatten() for p in model.parameters()])
    return dict(start=start, end=end, gradients=gradients)


def download(address, hub):
    torch.hub.set_dir(str(hub))
    try:
        return sorted(load_weights(address))
    except Exception as error:
        return type(error).__name__


def worker(rank, folder, address):
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=60))
    results = {}
    try:
        results['one node'] = download(f'{address}/good.pth', folder / 'hub')
        results['not there'] = download(f'{address}/bad.pth', folder / 'hub')
        os.environ['LOCAL_RANK'] = '0'
        results['two nodes'] = download(f'{address}/good.pth', folder / f'hub{rank}')
        for name, kwargs in MODELS.items():
            results[name] = train(rank, kwargs)
    except Exception:
        results['error'] = traceback.format_exc()
    torch.save(results, folder / f'{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What both processes found."""
    folder = tmp_path_factory.mktemp('ranks')
    (folder / 'www').mkdir()
    torch.save({'backbone.weight': torch.ones(1)}, folder / 'www' / 'good.pth')
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder / 'www'))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        context = torch.multiprocessing.start_processes(
            worker, (folder, f'http://127.0.0.1:{server.server_port}'), nprocs=2, join=False,
            start_method='spawn')
        end = time.monotonic() + LIMIT
        try:
            while not context.join(timeout=1):
                if time.monotonic() > end:
                    pytest.fail(f'still running after {LIMIT} s')
        finally:
            for process in context.processes:
                process.kill()
            server.shutdown()
    return [torch.load(folder / f'{rank}.pt') for rank in range(2)]


@pytest.mark.parametrize('name', MODELS)
def test_ranks_agree(ranks, name):
    """Over distillation, its decay and its stop, with images without any box on one rank only."""
    first, second = (results.get(name, results.get('error')) for results in ranks)
    assert isinstance(first, dict) and isinstance(second, dict), f'{first}\n{second}'
    assert torch.equal(first['start'], second['start']) and not torch.equal(first['start'], first['end'])
    assert torch.equal(first['end'], second['end'])
    assert len(first['gradients']) == len(STEPS)
    for a, b in zip(first['gradients'], second['gradients'], strict=True):
        assert torch.equal(a, b) and a.any()


def test_one_download_serves_a_node(ranks):
    assert [r['one node'] for r in ranks] == [['backbone.weight']] * 2


def test_a_failed_download_fails_everywhere(ranks):
    """And leaves nobody waiting."""
    assert [r['not there'] for r in ranks] == ['FileNotFoundError'] * 2


def test_each_node_downloads_for_itself(ranks):
    """Nodes need not share a disk."""
    assert [r['two nodes'] for r in ranks] == [['backbone.weight']] * 2
