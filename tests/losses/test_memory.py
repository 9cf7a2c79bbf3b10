"""Memories: what is drawn from them, how they move, and that a checkpoint holds them."""
import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset
from mmengine.runner.checkpoint import get_state_dict, load_state_dict

from mmgkd.functional import unit_rows
from mmgkd.losses import memory_bank as module
from mmgkd.losses.instance_queue import InstanceQueue
from mmgkd.losses.memory_bank import MemoryBank, dataset_labels

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 2])


def bank(labels=LABELS, seed=0, **kwargs):
    torch.manual_seed(seed)
    made = MemoryBank(**dict(dict(spaces=2, dims=4, num_negatives=5), **kwargs))
    made.fill(labels)
    return made


def fresh(n, spaces=2, dims=4, seed=0):
    return unit_rows(torch.randn(spaces, n, dims, generator=torch.Generator().manual_seed(seed)))


# ---- bank

def test_entries_start_uniform_of_expected_length_one():
    made = bank(torch.arange(2000) % 3, dims=128)
    s = (128 / 3) ** -.5
    assert made.keys.shape == (2, 2000, 128) and made.keys.abs().max() <= s
    assert made.keys.norm(dim=-1).mean() == pytest.approx(.999, abs=2e-3)
    for part in made.keys.flatten().histc(10, -s, s):
        assert part / made.keys.numel() == pytest.approx(.1, rel=.03)
    assert not torch.equal(made.keys[0], made.keys[1])


def test_filling_depends_on_the_seed_and_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(3)
    want = torch.rand(1)
    made = bank(seed=3)
    assert torch.equal(torch.rand(1), want)
    assert torch.equal(bank(seed=3).keys, made.keys) and not torch.equal(bank(seed=4).keys, made.keys)


@pytest.mark.parametrize('held', [1, 25, 10 ** 6])
def test_negatives_are_of_another_class_and_each_at_most_once(monkeypatch, held):
    monkeypatch.setattr(module, 'RANDOM', held)
    made = bank()
    index = torch.tensor([0, 4, 9, 0])
    for _ in range(20):
        drawn = made.draw(index)
        assert drawn.dtype == torch.bool and drawn.shape == (4, 10)
        assert (drawn.sum(1) == 5).all()
        assert not drawn[LABELS[index].unsqueeze(1) == LABELS].any()


def test_negatives_are_drawn_uniformly():
    made = bank(num_negatives=3)
    total = sum(made.draw(torch.tensor([0] * 200)).sum(0) for _ in range(20))  # 4000 draws of 3 among 7
    others = total[LABELS != 0] / 4000
    assert others.numel() == 7 and not total[LABELS == 0].any()
    assert others.tolist() == pytest.approx([3 / 7] * 7, abs=.04)


def test_pairs_of_negatives_are_drawn_independently():
    made = bank(num_negatives=2)
    both = torch.zeros(10, 10)
    for _ in range(20):
        drawn = made.draw(torch.tensor([0] * 200)).float()
        both += drawn.T @ drawn
    pairs = both[LABELS != 0][:, LABELS != 0].triu(1)
    assert pairs[pairs > 0].tolist() == pytest.approx([4000 / 21] * 21, rel=.3)


def test_with_replacement_where_there_are_too_few():
    """Six of class 2 leave four others; two of class 0 leave eight: six can be drawn of those without repeats."""
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2, 2, 2])
    made = bank(labels, num_negatives=6)
    assert made.fewest == 4
    total, repeats = torch.zeros(10), False
    for _ in range(50):
        drawn = made.draw(torch.tensor([0, 4] * 20))
        assert drawn.dtype == torch.float32 and (drawn.sum(1) == 6).all()
        assert not drawn[::2][:, :2].any() and not drawn[1::2][:, 4:].any()
        assert drawn[::2].max() == 1
        repeats = repeats or drawn[1::2].max() > 1
        total += drawn[1::2].sum(0)
    assert repeats and (total[:4] / 1000).tolist() == pytest.approx([1.5] * 4, abs=.15)


def test_more_negatives_than_entries():
    drawn = bank(num_negatives=50).draw(torch.tensor([0, 2]))
    assert (drawn.sum(1) == 50).all() and not drawn[0][LABELS == 0].any() and not drawn[1][LABELS == 2].any()


def test_draws_differ_by_turn_seed_and_process_and_by_nothing_else(monkeypatch):
    index = torch.zeros(50, dtype=torch.int64)
    made, again = bank(), bank()
    first, second = made.draw(index), made.draw(index)
    assert made.count == 2 and not torch.equal(first, second)
    torch.rand(3)
    assert torch.equal(again.draw(index), first)
    assert not torch.equal(bank(seed=1).draw(index), first)
    monkeypatch.setattr(module, 'get_rank', lambda: 1)
    assert not torch.equal(bank().draw(index), first)


def test_outside_training_nothing_changes():
    made = bank().eval()
    before = copy.deepcopy(made.state_dict())
    index = torch.tensor([3, 4])
    first, _ = made.recall(index, fresh(2), 2)
    made.update(index, fresh(2), 2)
    assert torch.equal(made.recall(index, fresh(2), 2)[0], first)
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())


def test_an_update_is_a_running_mean_of_length_one():
    made = bank(momentum=.8)
    before, e = made.keys.tolist(), fresh(3)
    made.update(torch.tensor([7, 2, 5]), e, 2)
    for s in range(2):
        for n in range(10):
            want = before[s][n]
            if n in (7, 2):
                new = e[s][[7, 2].index(n)].tolist()
                want = [.8 * m + .2 * x for m, x in zip(want, new, strict=True)]
                length = sum(w * w for w in want) ** .5
                want = [w / length for w in want]
            assert made.keys[s, n].tolist() == pytest.approx(want, rel=1e-5)


def test_of_a_sample_that_comes_twice_the_first_counts():
    twice, once, e = bank(), bank(), fresh(4)
    twice.update(torch.tensor([7, 2, 7, 7]), e, 4)
    once.update(torch.tensor([7, 2]), e, 2)
    assert torch.equal(twice.keys, once.keys)


def test_entries_are_copies():
    made = bank()
    _, old = made.recall(torch.tensor([1]), fresh(1), 1)
    want = old.clone()
    made.update(torch.tensor([1]), fresh(1), 1)
    assert torch.equal(old, want) and not torch.equal(made.keys[:, 1:2], want)


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_precision_follows_the_embeddings_but_never_below_float32(dtype):
    made = bank()
    made.recall(torch.tensor([1]), fresh(1).to(dtype), 1)
    assert made.keys.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_errors_of_a_bank():
    with pytest.raises(RuntimeError, match='bank is empty: .*PrepareLossesHook'):
        MemoryBank(spaces=2, dims=4).recall(torch.tensor([0]), fresh(1), 1)
    for wrong in (10, -1):
        with pytest.raises(IndexError, match=rf'sample_idx must be from 0 to 9, .* got \[{wrong}\]'):
            bank().recall(torch.tensor([0, wrong]), fresh(2), 2)
    for labels in (torch.zeros(4, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)):
        with pytest.raises(ValueError, match=f'data set of {len(labels)} samples has {min(len(labels), 1)} classes'):
            bank(labels)


def test_no_sample():
    made = bank()
    before = made.keys.clone()
    counts, old = made.recall(torch.zeros(0, dtype=torch.int64), fresh(0), 0)
    made.update(torch.zeros(0, dtype=torch.int64), fresh(0), 0)
    assert counts.shape == (0, 10) and old.shape == (2, 0, 4) and torch.equal(made.keys, before)


# ---- queue

def test_first_in_first_out():
    made, entries = InstanceQueue(spaces=2, dims=4, size=5), []
    for step, n in enumerate([2, 0, 2, 3, 1, 5, 12, 4]):
        e, labels = fresh(n, seed=step), torch.arange(n) + 100 * step
        made.recall(labels, e, n)
        entries = (entries + [(y.item(), e[:, i]) for i, y in enumerate(labels)])[-5:]
        held = {y.item(): made.keys[:, i] for i, y in enumerate(made.labels) if y >= 0}
        assert sorted(held) == sorted(y for y, _ in entries)
        assert all(torch.equal(held[y], x) for y, x in entries)
    assert made.count == 29


def test_others_are_of_another_class_and_of_this_batch_too():
    made = InstanceQueue(spaces=2, dims=4, size=6)
    mask, old = made.recall(torch.tensor([3, 0, 3]), fresh(3), 3)
    assert old is None and mask.tolist() == [
        [False, True, False, False, False, False], [True, False, True, False, False, False],
        [False, True, False, False, False, False]]
    mask, _ = made.recall(torch.tensor([0]), fresh(1), 1)
    assert mask.tolist() == [[True, False, True, False, False, False]]
    mask, _ = made.eval().recall(torch.tensor([5, 6]), fresh(2), 2)
    assert mask.tolist() == [[True] * 4 + [False] * 2] * 2 and made.count == 4


def test_so_many_are_kept():
    made = InstanceQueue(spaces=2, dims=4, size=6)
    e = fresh(3)
    mask, _ = made.recall(torch.tensor([3, 0, 3]), e, 1)
    assert made.labels.tolist() == [3] + [-1] * 5 and torch.equal(made.keys[:, :1], e[:, :1]) and mask.shape == (3, 6)


# ---- state

def filled(kind, **kwargs):
    if kind == 'bank':
        return bank(**kwargs)
    made = InstanceQueue(**dict(dict(spaces=2, dims=4, size=5), **kwargs))
    made.recall(torch.arange(7), fresh(7), 7)
    return made


def empty(kind, **kwargs):
    return MemoryBank(**dict(dict(spaces=2, dims=4, num_negatives=5), **kwargs)) if kind == 'bank' \
        else InstanceQueue(**dict(dict(spaces=2, dims=4, size=5), **kwargs))


class Holder(torch.nn.Module):
    def __init__(self, memory):
        super().__init__()
        self.memory, self.layer = memory, torch.nn.Linear(2, 2)


KINDS = pytest.mark.parametrize('kind', ['bank', 'queue'])
LOADERS = pytest.mark.parametrize('load', [
    lambda model, state: model.load_state_dict(state), lambda model, state: load_state_dict(model, state, strict=True)],
    ids=['torch', 'mmengine'])


@KINDS
@LOADERS
def test_a_checkpoint_restores_everything(kind, load):
    a, b = Holder(filled(kind)), Holder(empty(kind))
    for save in (lambda m: m.state_dict(), get_state_dict):
        state = save(a)
        assert set(state) == {'memory.keys', 'memory.labels', 'memory.count', 'layer.weight', 'layer.bias'}
    load(b, pickle.loads(pickle.dumps(state)))
    ids = torch.tensor([3, 1, 2])
    for step in range(3):
        results = [m.memory.recall(ids, fresh(3, seed=step), 3)[0] for m in (a, b)]
        assert torch.equal(*results)
        for m in (a, b):
            m.memory.update(ids, fresh(3, seed=step), 3)
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@KINDS
def test_a_loaded_memory_is_not_the_checkpoints(kind):
    state = copy.deepcopy(filled(kind).state_dict())
    made = empty(kind)
    made.load_state_dict(state)
    want = state['keys'].clone()
    made.recall(torch.tensor([3]), fresh(1), 1)
    made.update(torch.tensor([3]), fresh(1), 1)
    assert torch.equal(state['keys'], want) and not torch.equal(made.keys, want)


@KINDS
@LOADERS
def test_a_checkpoint_without_a_memory_changes_none(kind, load):
    state = Holder(empty(kind)).state_dict()
    assert set(state) == {'layer.weight', 'layer.bias'}
    made = Holder(filled(kind))
    want = made.memory.keys.clone()
    load(made, state)
    assert torch.equal(made.memory.keys, want)


@KINDS
@LOADERS
def test_what_does_not_fit_is_told(kind, load):
    state = Holder(filled(kind)).state_dict()
    with pytest.raises(RuntimeError, match='memory.keys: the checkpoint has 2 spaces of 4 dims, the config 4 of 4'):
        load(Holder(empty(kind, spaces=4)), state)
    with pytest.raises(RuntimeError, match='memory.keys: the checkpoint has 2 spaces of 4 dims, the config 2 of 8'):
        load(Holder(empty(kind, dims=8)), state)
    if kind == 'queue':
        with pytest.raises(RuntimeError, match='memory.keys: the checkpoint has 5 entries, the config queue_size=6'):
            load(Holder(empty(kind, size=6)), state)
    del state['memory.labels']
    with pytest.raises(RuntimeError, match='memory.labels'):
        load(Holder(empty(kind)), state)


@KINDS
def test_copies_are_independent(kind):
    a = filled(kind)
    b = copy.deepcopy(a)
    b.recall(torch.tensor([3]), fresh(1), 1)
    b.update(torch.tensor([3]), fresh(1), 1)
    assert not torch.equal(a.keys, b.keys) and a.count != b.count
    assert not list(a.parameters()) and not list(a.buffers())


def test_a_bank_of_the_same_data_set_goes_on_and_of_another_starts_anew():
    made, other = bank(), empty('bank')
    made.draw(torch.tensor([0]))
    other.load_state_dict(made.state_dict())
    other.fill(LABELS.clone())
    assert torch.equal(other.keys, made.keys) and other.count == 1
    for labels in (LABELS.flip(0), LABELS[:6]):
        other.load_state_dict(made.state_dict())
        other.fill(labels)
        assert other.keys.shape == (2, len(labels), 4) and other.count == 0
        assert not torch.equal(other.keys, made.keys[:, :len(labels)]) or len(labels) == 10
        assert torch.equal(other.labels, labels)


def test_it_prints_its_size():
    assert repr(empty('bank')) == 'MemoryBank(spaces=2, entries=0, dims=4)'
    assert repr(filled('queue')) == 'InstanceQueue(spaces=2, entries=5, dims=4)'


# ---- labels of a data set

class Images(BaseDataset):
    """Three images of a class each; the one of class 1 is filtered out."""

    labels = [2, 1, 0, 4]

    def load_data_list(self):
        return [dict(img_path='', gt_label=y) for y in self.labels]

    def filter_data(self):
        return [x for x in self.data_list if x['gt_label'] != 1]


class Quick(Images):
    def get_gt_labels(self):
        return [2, 0, 4]

    def get_data_info(self, idx):
        raise AssertionError('not needed')


@pytest.mark.parametrize('kind', [Images, Quick])
@pytest.mark.parametrize('wrap', [
    lambda x: x, lambda x: RepeatDataset(x, times=3), lambda x: ConcatDataset([x]),
    lambda x: SimpleNamespace(dataset=ConcatDataset([x]))])
def test_labels_of_a_data_set(kind, wrap):
    labels = dataset_labels(wrap(kind()))
    assert labels.dtype == torch.int64 and labels.tolist() == [2, 0, 4]


def test_data_sets_without_one_label_each():
    with pytest.raises(ValueError, match='ConcatDataset numbers the samples of each of its 2 data sets from 0'):
        dataset_labels(ConcatDataset([Images(), Images()]))

    class Boxes(Images):
        def load_data_list(self):
            return [dict(img_path='', instances=[]) for _ in range(2)]

        def filter_data(self):
            return self.data_list

    class Several(Quick):
        def get_gt_labels(self):
            return [[0, 1], [1], [2]]

    for wrong in (Boxes(), Several()):
        with pytest.raises(ValueError, match=f'one gt_label per sample, which {type(wrong).__name__} does not give'):
            dataset_labels(wrong)
