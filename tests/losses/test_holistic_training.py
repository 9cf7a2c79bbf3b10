"""HKD inside a distiller: a step, checkpoints, averages of the model, resumed runs, and the method files."""
import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, build, distiller, distiller_config, losses, neck, tiny, total
from mmdet.registry import HOOKS, MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mmgkd.losses import HolisticGraphLoss
from mmgkd.losses.instance_queue import InstanceQueue
from mmgkd.losses.memory_bank import MemoryBank

QUEUE = dict(hkd=dict(type='HolisticGraphLoss', memory='queue', embed_dims=8, queue_size=12, neighbours=2))
OWN = ['distill_losses.hkd.' + name for name in (
    'memory.keys', 'memory.labels', 'memory.count', 'embed.own.weight', 'embed.other.weight',
    'convolve.own.weight', 'convolve.other.weight')]


def test_a_detector_trains_a_step():
    """Teacher and student differ in channels, and no connector joins them."""
    model = distiller(teacher=dict(config=tiny(**neck(24))), distill_losses=QUEUE)
    plain = set(build(tiny()).state_dict())
    assert not list(model.connector.parameters())
    terms = losses(model)
    total(model, terms).backward()
    assert {'hkd_individual', 'loss_hkd_individual', 'hkd_graph', 'loss_hkd_graph'} <= set(terms)
    own = model.distill_losses['hkd']
    assert all(p.grad is not None and p.grad.any() for p in own.parameters())
    assert own.memory.count > 0 and set(model.state_dict()) - plain == set(OWN)


def test_boxes_on_no_image():
    model = distiller(distill_losses=QUEUE)
    terms = losses(model, boxes=[0, 0])
    total(model, terms).backward()
    assert terms['hkd_individual'] == 0 and terms['hkd_graph'] == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.distill_losses.parameters())


def test_a_plain_student_does_without():
    trained = distiller(distill_losses=QUEUE)
    losses(trained)
    state = trained.state_dict()
    alone = build(tiny())
    alone.load_state_dict({k: v for k, v in state.items() if not k.startswith('distill_losses.')})
    again = distiller(distill_losses=QUEUE, seed=1)
    again.load_state_dict(alone.state_dict())
    assert again.distill_losses['hkd'].memory.keys is None
    losses(again)
    again.load_state_dict(state)
    assert again.distill_losses['hkd'].memory.count == trained.distill_losses['hkd'].memory.count


def test_what_is_at_rest_takes_a_checkpoint_with_a_memory():
    """No teacher config, as at test time."""
    trained = distiller(distill_losses=QUEUE)
    losses(trained)
    resting = build(distiller_config(distill_losses=QUEUE, teacher=dict(config='no.py', checkpoint='no.pth')))
    resting.load_state_dict(trained.state_dict())


# ---- through the Runner

def run(train, **more):
    config = distiller_config(
        tiny('retinanet', neck=dict(out_channels=16), bbox_head=dict(in_channels=16)),
        dict(config=tiny('retinanet', neck=dict(out_channels=16), bbox_head=dict(in_channels=16))),
        distill_losses=QUEUE)
    return train(config, 2, **more)


def checkpoint(runner, epoch, key='state_dict'):
    return torch.load(f'{runner.work_dir}/epoch_{epoch}.pth', weights_only=False)[key]


def same(a, b):
    return set(a) == set(b) and all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.parametrize('buffers', [False, True])
def test_resume_is_exact(train, buffers):
    """Averages of the model leave the memory alone, of buffers or not."""
    hooks = [dict(type='EMAHook', momentum=.1, update_buffers=buffers)]
    straight = run(train, custom_hooks=hooks)
    resumed = run(train, custom_hooks=hooks, resume=True, load_from=f'{straight.work_dir}/epoch_1.pth')
    memory = straight.model.distill_losses['hkd'].memory
    assert memory.count > 12  # it has gone round
    assert same(checkpoint(resumed, 2), checkpoint(straight, 2)) and set(OWN) <= set(checkpoint(straight, 1))
    for name in ('keys', 'labels'):
        saved = checkpoint(straight, 2)[f'distill_losses.hkd.memory.{name}']
        assert torch.equal(saved, getattr(memory, name))
        assert not torch.equal(saved, checkpoint(straight, 1)[f'distill_losses.hkd.memory.{name}'])
    averaged = checkpoint(straight, 2, 'ema_state_dict')
    assert same(checkpoint(resumed, 2, 'ema_state_dict'), averaged)
    assert not any('memory' in name for name in averaged)


# ---- a bank, in a loop of its own

class Data(BaseDataset):
    """Noisy images of four classes."""

    def load_data_list(self):
        return [dict(gt_label=i % 4) for i in range(24)]

    def batch(self, index):
        g = torch.Generator()
        images = []
        for i in index:
            g.manual_seed(int(i))
            images.append(torch.randn(3, 8, 8, generator=g) + self.get_data_info(int(i))['gt_label'])
        return torch.stack(images), [
            DetDataSample(metainfo=dict(sample_idx=self.get_data_info(int(i))['sample_idx'])) for i in index]


class Pair(torch.nn.Module):
    """A student and a teacher of one layer each."""

    def __init__(self, **kwargs):
        super().__init__()
        self.student, self.teacher = torch.nn.Conv2d(3, 6, 3), torch.nn.Conv2d(3, 5, 3)
        self.distill_losses = torch.nn.ModuleDict(dict(hkd=HolisticGraphLoss(**dict(
            dict(embed_dims=8, num_negatives=6, neighbours=3), **kwargs))))
        self.distill_losses['hkd'].prepare([(6, 6, 6)], [(5, 6, 6)])

    def forward(self, inputs, samples):
        maps = self.student(inputs), self.teacher(inputs)
        logits = [x.mean((2, 3))[:, :4] for x in maps]
        loss = self.distill_losses['hkd']
        readings = dict(predictions=SimpleNamespace(student=logits[0], teacher=logits[1])) if loss.needs else {}
        return sum(x for values in loss([maps[0]], [maps[1].detach()], samples, **readings).values() for x in values)


def start(**kwargs):
    torch.manual_seed(0)
    model = Pair(**kwargs)
    return model, torch.optim.SGD([p for n, p in model.named_parameters() if not n.startswith('teacher')], lr=.01)


def prepare(model):
    data = Data()
    runner = SimpleNamespace(model=model, train_dataloader=SimpleNamespace(dataset=data), optim_wrapper=None)
    HOOKS.build(dict(type='PrepareLossesHook')).before_train(runner)
    return data


def train_steps(model, optim, data, steps):
    for step in steps:
        order = torch.randperm(24, generator=torch.Generator().manual_seed(step))[:9 if step % 3 else 5]
        optim.zero_grad()
        model(*data.batch(order)).backward()
        optim.step()


@pytest.mark.parametrize('options', [{}, dict(published=False), dict(num_negatives=30)], ids=str)
def test_a_run_with_a_bank_that_is_resumed_is_exact(options):
    whole, optim = start(**options)
    data = prepare(whole)
    train_steps(whole, optim, data, range(4))
    saved = copy.deepcopy((whole.state_dict(), optim.state_dict()))
    train_steps(whole, optim, data, range(4, 8))
    torch.rand(3)
    resumed, optim = start(**options)
    torch.rand(5)
    resumed.load_state_dict(saved[0])
    optim.load_state_dict(saved[1])
    data = prepare(resumed)
    train_steps(resumed, optim, data, range(4, 8))
    assert same(resumed.state_dict(), whole.state_dict())
    assert whole.distill_losses['hkd'].memory.count == 8
    assert not torch.equal(saved[0]['distill_losses.hkd.memory.keys'], whole.distill_losses['hkd'].memory.keys)


def test_the_loss_falls():
    model, optim = start()
    data = prepare(model)
    order = torch.arange(12)
    values = []
    for _ in range(60):
        optim.zero_grad()
        value = model(*data.batch(order))
        value.backward()
        optim.step()
        values.append(value.item())
    assert sum(values[-5:]) < .7 * sum(values[:5])


# ---- method files

def losses_of(path):
    config = Config.fromfile(ROOT / 'configs/_base_' / path)
    assert set(config.keys()) == {'distill_losses', 'distill_hooks'}
    return config


def test_the_method_file_for_detectors():
    config = losses_of('hkd.py')
    loss = MODELS.build(config.distill_losses.hkd)
    assert isinstance(loss.memory, InstanceQueue) and all(.03 <= w <= .1 for w in loss.weights.values())
    hook, = (HOOKS.build(h) for h in config.distill_hooks)
    assert hook.weight_at(0) < .01 and hook.weight_at(600) == 1
    model = distiller(distill_losses=config.distill_losses)
    value = losses(model, boxes=[8, 8])
    assert 0 < total(model, {k: v for k, v in value.items() if 'hkd' in k}) < 5


def test_the_method_file_for_classifiers():
    config = losses_of('classification/hkd.py')
    loss, = (MODELS.build(cfg) for cfg in config.distill_losses.values())
    assert isinstance(loss.memory, MemoryBank) and loss.weights == dict(individual=3., graph=3.)
    assert [h.type for h in config.distill_hooks] == ['PrepareLossesHook']

