"""Two processes with HKD: their memories stay alike, whatever each has to add, and nobody waits."""
import datetime
import os
import time
import traceback
from types import SimpleNamespace

import pytest
import torch
from conftest import distiller, raw_batch
from mmdet.structures import DetDataSample
from mmengine.model import MMDistributedDataParallel
from mmengine.structures import InstanceData

from mmgkd.losses import HolisticGraphLoss
from mmgkd.losses.memory import gather_rows

LIMIT = 120
"""Seconds for everything, after which a process is taken to hang."""
LABELS = torch.arange(40) % 4
BOXES = [[(3, 2), (0, 0)], [(0, 0), (1, 0)], [(0, 0), (0, 0)], [(4, 0), (0, 5)], [(2, 2), (9, 1)]]
"""Of the images of each rank, step by step."""
IMAGES = [(9, 5), (9, 8), (2, 9), (3, 5), (8, 8)]
"""So many on each rank: less than 8 give no graph term and leave the bank alone."""


class Pair(torch.nn.Module):
    """A student and a teacher of one layer each."""

    def __init__(self, **kwargs):
        super().__init__()
        self.student, self.teacher = torch.nn.Conv2d(3, 6, 4, 4), torch.nn.Conv2d(3, 5, 4, 4).requires_grad_(False)
        self.loss = HolisticGraphLoss(**dict(dict(embed_dims=8, num_negatives=6, neighbours=3, edges='embedding'),
                                             **kwargs))
        self.loss.prepare([(6, 16, 16)], [(5, 16, 16)])

    def forward(self, inputs, samples):
        return self.loss([self.student(inputs)], [self.teacher(inputs)], samples)


def boxes(step, rank):
    g = torch.Generator().manual_seed(10 * step + rank)
    samples = []
    for n in BOXES[step][rank]:
        corner = 30 * torch.rand(n, 2, generator=g)
        sample = DetDataSample(metainfo=dict(img_shape=(64, 64), batch_input_shape=(64, 64)))
        sample.gt_instances = InstanceData(bboxes=torch.cat([corner, corner + 20], 1),
                                           labels=torch.randint(0, 4, (n,), generator=g))
        samples.append(sample)
    return torch.randn(2, 3, 64, 64, generator=g), samples


def images(step, rank):
    g = torch.Generator().manual_seed(10 * step + rank)
    n = IMAGES[step][rank]
    index = torch.randperm(40, generator=g)[:n]
    index[-1] = 7  # on both
    return torch.randn(n, 3, 64, 64, generator=g), [DetDataSample(metainfo=dict(sample_idx=int(i))) for i in index]


def train(rank, batch, **kwargs):
    """Parameters, memory, values and draws of a rank after each step."""
    torch.manual_seed(0)
    model = Pair(**kwargs)
    if kwargs['memory'] == 'bank':
        torch.manual_seed(rank)  # as with diff_rank_seed
        model.loss.before_training(SimpleNamespace(train_dataloader=SimpleNamespace(dataset=Data())))
    ddp = MMDistributedDataParallel(model, find_unused_parameters=False, broadcast_buffers=False)
    optim = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=.05)
    steps = []
    for step in range(5):
        given, real = [], model.loss.memory.recall
        model.loss.memory.recall = lambda ids, fresh, kept, given=given, real=real: (
            given.append((ids[:kept], fresh[:, :kept])) or real(ids, fresh, kept))
        optim.zero_grad()
        terms = ddp(*batch(step, rank))
        del model.loss.memory.recall
        sum(x for values in terms.values() for x in values).backward()
        optim.step()
        memory = model.loss.memory
        steps.append(dict(
            parameters=torch.cat([p.detach().flatten() for p in model.parameters()]),
            gradients=torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]),
            keys=memory.keys.clone(), labels=memory.labels.clone(), count=memory.count, given=given[0],
            values={k: float(v) for k, (v,) in terms.items()}))
    return steps


class Data:
    def get_gt_labels(self):
        return LABELS.numpy()

    def __len__(self):
        return len(LABELS)


def detect(rank):
    """A distilled detector; one rank has an image without any box, then no box at all."""
    loss = dict(hkd=dict(type='HolisticGraphLoss', memory='queue', embed_dims=8, queue_size=12))
    model = distiller(distill_losses=loss)
    ddp = MMDistributedDataParallel(model, find_unused_parameters=False, broadcast_buffers=False)
    optim = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step, boxes in enumerate([[3, 0], [0, 0]]):
        torch.manual_seed(10 * step + rank)
        batch = model.data_preprocessor(raw_batch(((64, 64), (64, 48)), boxes if rank else [2, 4]), True)
        optim.zero_grad()
        model.parse_losses(ddp(**batch, mode='loss'))[0].backward()
        optim.step()
    memory = model.distill_losses['hkd'].memory
    return dict(parameters=torch.cat([p.detach().flatten() for p in model.parameters()]), keys=memory.keys,
                labels=memory.labels, count=memory.count)


def worker(rank, folder):
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2, timeout=datetime.timedelta(seconds=40))
    results = {}
    try:
        mine = torch.arange(3. * rank).reshape(-1, 3) + 10 * rank
        results['gathered'] = gather_rows(mine, mine[:, 0].long(), torch.zeros(len(mine), 2, 2))
        results['nothing'] = gather_rows(mine[:0], mine[:0, 0])
        results['queue'] = train(rank, boxes, memory='queue', queue_size=12)
        results['published queue'] = train(rank, boxes, memory='queue', queue_size=12, published=True)
        results['bank'] = train(rank, images, memory='bank')
        results['plain bank'] = train(rank, images, memory='bank', published=False)
        results['detector'] = detect(rank)
    except Exception:
        results['error'] = traceback.format_exc()
    torch.save(results, folder / f'{rank}.pt')
    torch.distributed.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What both processes found."""
    folder = tmp_path_factory.mktemp('ranks')
    context = torch.multiprocessing.start_processes(worker, (folder,), nprocs=2, join=False, start_method='spawn')
    end = time.monotonic() + LIMIT
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end:
                pytest.fail(f'still running after {LIMIT} s')
    finally:
        for process in context.processes:
            process.kill()
    results = [torch.load(folder / f'{rank}.pt') for rank in range(2)]
    errors = [r['error'] for r in results if 'error' in r]
    assert not errors, '\n'.join(errors)
    return results


def test_rows_are_gathered_in_the_order_of_ranks(ranks):
    """The first has none."""
    for found in (r['gathered'] for r in ranks):
        assert found[0].tolist() == [[10, 11, 12]] and found[1].tolist() == [10] and found[2].shape == (1, 2, 2)
    assert [[x.shape for x in r['nothing']] for r in ranks] == [[(0, 3), (0,)]] * 2


CASES = pytest.mark.parametrize('case', ['queue', 'published queue', 'bank', 'plain bank'])


@CASES
def test_ranks_stay_alike(ranks, case):
    for step, (a, b) in enumerate(zip(*(r[case] for r in ranks), strict=True)):
        for name in ('parameters', 'gradients', 'keys', 'labels'):
            assert torch.equal(a[name], b[name]), (step, name)
        assert a['count'] == b['count']
        assert all(v == v for v in (*a['values'].values(), *b['values'].values()))  # nan differs from itself
    assert not torch.equal(ranks[0][case][0]['parameters'], ranks[0][case][-1]['parameters'])


@pytest.mark.parametrize('case', ['queue', 'published queue'])
def test_a_queue_holds_what_all_have_in_the_order_of_ranks(ranks, case):
    queue = []
    for step in range(5):
        for rank in ranks:
            labels, fresh = rank[case][step]['given']
            queue += [(int(y), fresh[:, i]) for i, y in enumerate(labels)]
        found = ranks[0][case][step]
        assert found['count'] == len(queue)
        for place in range(12):
            latest = [entry for i, entry in enumerate(queue) if i % 12 == place]
            assert found['labels'][place] == (latest[-1][0] if latest else -1)
            if latest:
                assert torch.equal(found['keys'][:, place], latest[-1][1])
    assert len(queue) == (10 if case == 'published queue' else 29)  # less than 8 boxes of a rank are not pushed


@pytest.mark.parametrize('case', ['bank', 'plain bank'])
def test_a_bank_moves_by_what_all_have(ranks, case):
    before = None
    for step in range(5):
        found, seen = ranks[0][case][step], {}
        for rank in ranks:
            index, fresh = rank[case][step]['given']
            for i, n in enumerate(index.tolist()):
                seen.setdefault(n, fresh[:, i])  # of what comes twice, the first
        if before is not None:
            for n in range(40):
                want = before[:, n]
                if n in seen:
                    want = torch.nn.functional.normalize(.9 * want + .1 * seen[n], dim=-1)
                assert torch.allclose(found['keys'][:, n], want, atol=1e-6)
        published = case == 'bank'
        kept = [n for n in IMAGES[step] if n >= 8 or not published]
        assert sum(len(rank[case][step]['given'][0]) for rank in ranks) == sum(kept)
        before = found['keys']


def test_ranks_draw_different_negatives_and_value_their_own_batch(ranks):
    for case in ('queue', 'bank'):
        assert ranks[0][case][-1]['values'] != ranks[1][case][-1]['values']
    assert [r['bank'][0]['values']['graph'] == 0 for r in ranks] == [False, True]
    assert [r['queue'][0]['values']['individual'] == 0 for r in ranks] == [False, True]


def test_a_detector(ranks):
    a, b = (r['detector'] for r in ranks)
    assert torch.equal(a['parameters'], b['parameters'])
    assert torch.equal(a['keys'], b['keys']) and torch.equal(a['labels'], b['labels'])
    assert a['count'] == b['count'] == 15
