"""MHGD in two processes: the same heads in both, and gradients held down in each."""
import datetime
import time
import traceback

import pytest
import torch
from conftest import distiller, raw_batch, tiny
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from mmgkd.losses.attention_estimator import AttentionEstimator, train_estimator

RETINA = tiny('retinanet')


def vectors(nodes, seed):
    """The back depth is a function of the front."""
    front = torch.randn(nodes, 6, generator=torch.Generator().manual_seed(seed))
    return [torch.nn.functional.normalize(x, dim=1) for x in (front, front[:, :4].tanh() - front[:, 2:])]


def estimator():
    torch.manual_seed(0)
    return AttentionEstimator((6, 4), num_heads=4)


def gradients(rank, rule):
    """Of the student's first layer: as both processes apply it, and the mean of what each batch gives alone.

    A function, so that the wrapper is gone before the process group is: its reducer, if it holds the last reference,
    ends gloo's threads while holding the interpreter's lock, for which they may be waiting.
    """
    model = distiller(RETINA, dict(config=RETINA), distill_losses=dict(mhgd=dict(
        type='AttentionGraphLoss', num_heads=2, gradient_rule=rule, loss_weight=100.)))
    model.distill_losses.mhgd.estimator.trained.fill_(1)
    weight = model.student.backbone.conv1.weight
    batches = []
    for r in range(2):
        torch.manual_seed(r)
        batches.append(raw_batch(((64, 64), (64, 48)), [3, r]))
    torch.manual_seed(0)
    alone = []
    for batch in batches:
        value, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode='loss'))
        alone.append(torch.autograd.grad(value, weight)[0])
    ddp = MMDistributedDataParallel(model, find_unused_parameters=False, broadcast_buffers=False)
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.))
    applied = []
    optim.optimizer.register_step_pre_hook(lambda *_: applied.append(weight.grad.clone()))
    ddp.train_step(batches[rank], optim)
    return applied[0], sum(alone) / 2


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2,
                                         timeout=datetime.timedelta(seconds=60))
    results = {}
    try:
        model = estimator()
        train_estimator(model, [vectors(n, 10 * i + rank) for i, n in enumerate((8, 1 + 5 * rank, 6 - 6 * rank, 4))], 4)
        results['estimator'] = model.state_dict()
        for rule in ('full', 'feature'):
            results[rule], results[f'{rule} alone'] = gradients(rank, rule)
    except Exception:
        results['error'] = traceback.format_exc()
    torch.save(results, folder / f'{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    context = torch.multiprocessing.start_processes(worker, (folder,), nprocs=2, join=False, start_method='spawn')
    end = time.monotonic() + 120
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end:
                pytest.fail('still running after 120 s')
    finally:
        for process in context.processes:
            process.kill()
    found = [torch.load(folder / f'{rank}.pt') for rank in range(2)]
    assert not [r['error'] for r in found if 'error' in r], found
    return found


def test_heads_stay_the_same_in_all_processes(ranks):
    """Their weights and their statistics, though one had no batch of two nodes now and then."""
    first, second = (r['estimator'] for r in ranks)
    fresh = estimator().state_dict()
    for name, value in first.items():
        if value.is_floating_point():
            assert torch.equal(value, second[name]) and not torch.equal(value, fresh[name]), name


@pytest.mark.parametrize('rule', ['full', 'feature'])
def test_gradients_are_held_down_in_each_process_then_averaged(ranks, rule):
    assert torch.equal(ranks[0][rule], ranks[1][rule])
    torch.testing.assert_close(ranks[0][rule], ranks[0][f'{rule} alone'], rtol=1e-3, atol=1e-8)
