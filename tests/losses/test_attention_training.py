"""MHGD as a user runs it: heads trained on the teacher, stored, frozen, resumed, and gone from the student."""
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT, build, distiller, distiller_config, losses, run_config, teacher_file, tiny
from mmengine.config import Config
from mmengine.runner import Runner

from mmgkd.losses import attention_graph
from mmgkd.losses.attention_estimator import AttentionEstimator, train_estimator

RETINA = tiny('retinanet')
HOOKS = [dict(type='PrepareLossesHook')]
ITERATIONS = 20


def model_config(checkpoint=None, **options):
    teacher = dict(config=RETINA, checkpoint=checkpoint, allow_random=checkpoint is None)
    return distiller_config(RETINA, teacher, distill_losses=dict(mhgd=dict(dict(
        type='AttentionGraphLoss', num_heads=2, estimator_iters=ITERATIONS), **options)))


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    return teacher_file(tmp_path_factory.mktemp('teacher') / 'teacher.pth', RETINA)


@pytest.fixture(scope='module')
def config_of(digits, teacher, tmp_path_factory):
    """Function to the config of a run in a folder of its own."""
    def config(epochs=2, *, hooks=HOOKS, flip=.5, **options):
        return run_config(digits, tmp_path_factory.mktemp('run'), model_config(teacher, **options), epochs, flip=flip,
                          custom_hooks=hooks, log_level='INFO')
    return config


def run(config, **more):
    config.merge_from_dict(more)
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


@pytest.fixture(scope='module')
def straight(config_of):
    """Two epochs, with random flips, in phase 1 too."""
    return run(config_of())


def log_of(runner):
    log, = Path(runner.work_dir).glob('*/*.log')
    return log.read_text()


def saved(runner, epoch, key='state_dict'):
    return torch.load(f'{runner.work_dir}/epoch_{epoch}.pth', weights_only=False)[key]


def heads(state):
    prefix = 'distill_losses.mhgd.estimator.'
    return {k.partition(prefix)[2]: v for k, v in state.items() if prefix in k}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in b)


def stored(runner):
    return torch.load(f'{runner.work_dir}/mhgd_estimator.pth', weights_only=True)['state_dict']


def test_heads_learn_on_the_teacher_and_are_frozen(straight):
    log = log_of(straight)
    values = [float(x) for x in re.findall(r'attention estimator \[\d+/20\]  loss: ([\d.]+)', log)]
    assert len(values) == 10 and values[-1] < .5 * values[0]
    assert 'nodes: ' in log and re.search(r'\[20/20\].*eta: 0:00:00', log)
    trained = stored(straight)
    assert trained['trained'] == 1 and trained['pairs.0.key.1.num_batches_tracked'] == ITERATIONS
    assert all(equal(heads(saved(straight, epoch)), trained) for epoch in (1, 2))
    fresh = heads(distiller(**{k: v for k, v in model_config().items() if k in (
        'student', 'teacher', 'distill_losses')}).state_dict())
    assert all(not torch.equal(fresh[k], v) for k, v in trained.items() if 'weight' in k)
    assert 'loss_mhgd_attention' in log and 'mhgd_attention' in log


def test_a_stored_estimator_spares_phase_1(straight, config_of, monkeypatch):
    """And leads to the same student: phase 1 draws no random number that the student's training sees."""
    monkeypatch.setattr(attention_graph, 'train_estimator', None)
    again = run(config_of(estimator=f'{straight.work_dir}/mhgd_estimator.pth'))
    assert equal(saved(again, 2), saved(straight, 2))
    assert 'loaded from' in log_of(again)


def test_resume_is_exact_and_does_not_repeat_phase_1(config_of, monkeypatch):
    hooks = [*HOOKS, dict(type='EMAHook', momentum=.1, update_buffers=True)]
    straight = run(config_of(flip=0., hooks=hooks))  # what flips draw is not in a checkpoint
    monkeypatch.setattr(attention_graph, 'train_estimator', None)
    resumed = run(config_of(flip=0., hooks=hooks), resume=True, load_from=f'{straight.work_dir}/epoch_1.pth')
    for key in ('state_dict', 'ema_state_dict'):  # which that hook swaps: the second is the model's own
        assert equal(saved(resumed, 2, key), saved(straight, 2, key))
    assert equal(heads(saved(resumed, 2, 'ema_state_dict')), stored(straight))
    assert 'trained, with the checkpoint' in log_of(resumed)
    optimizer = [saved(r, 2, 'optimizer') for r in (resumed, straight)]
    assert all(len(x['state']) == len([p for p in straight.model.parameters() if p.requires_grad]) for x in optimizer)


def test_the_student_alone_has_no_heads(straight):
    alone = build(RETINA)
    missing, unexpected = alone.load_state_dict(saved(straight, 2), strict=False)
    assert not missing and unexpected and all(k.startswith('distill_losses.mhgd.estimator.') for k in unexpected)
    again = build(model_config())
    again.load_state_dict(saved(straight, 2))
    assert again.distill_losses['mhgd'].estimator.trained == 1
    losses(again)  # which needs no phase 1


def test_plain_weights_leave_it_untrained(straight):
    plain = {k: v for k, v in saved(straight, 2).items() if not k.startswith('distill_losses')}
    model = build(model_config())
    model.load_state_dict(plain)
    with pytest.raises(RuntimeError, match='not trained yet'):
        losses(model)


def test_without_the_hook(config_of):
    with pytest.raises(RuntimeError, match='PrepareLossesHook'):
        run(config_of(hooks=[]))


@pytest.mark.parametrize('options', [
    dict(nodes='images', reduction='sum', gradient_rule='full'),
    dict(compress='mean', norm='layer', gradient_rule='feature', estimator_iters=None, estimator_epochs=3)], ids=str)
def test_variants(config_of, options):
    runner = run(config_of(1, **options))
    length = 6 if 'estimator_epochs' in options else ITERATIONS  # two iterations in an epoch
    assert f'[{length}/{length}]' in log_of(runner)
    assert equal(heads(saved(runner, 1)), stored(runner))


def test_training_counted_in_iterations(config_of):
    """Whose batches come from one iterator that is not to be exhausted."""
    config = config_of()
    config.train_cfg = dict(by_epoch=False, max_iters=3)
    config.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    runner = run(config)
    assert runner.iter == 3 and '[20/20]' in log_of(runner)


def test_heads_of_another_shape(straight, config_of):
    path = f'{straight.work_dir}/mhgd_estimator.pth'
    for options, reason in ((dict(num_heads=3), r'pairs.0.key.0.weight: \(32, 16\) in the file, \(48, 16\) expected'),
                            (dict(norm='layer'), r'running_mean: .*in the file, not expected')):
        with pytest.raises(ValueError, match=f'estimator .*mhgd_estimator.pth. does not fit: .*{reason}.*num_heads'):
            run(config_of(estimator=path, **options))
    with pytest.raises(FileNotFoundError, match='nowhere.pth'):
        run(config_of(estimator='nowhere.pth'))


def test_a_rate_that_is_too_large(config_of):
    with pytest.raises(ValueError, match='diverged with estimator_lr=1e'):
        run(config_of(estimator_lr=1e30))


@pytest.mark.parametrize('name', ['_base_/mhgd.py', '_base_/classification/mhgd.py'])
def test_the_method_files(name):
    config = Config.fromfile(ROOT / 'configs' / name)
    assert config.distill_hooks == HOOKS
    model = distiller(RETINA, dict(config=RETINA), distill_losses=config.distill_losses)
    model.distill_losses.mhgd.estimator.trained.fill_(1)
    value, log = model.parse_losses(losses(model))
    value.backward()
    assert log['mhgd_attention'] > 0 and model.student.backbone.conv1.weight.grad.any()


# ---- the estimator alone

def vectors(nodes, seed):
    """The back depth is a function of the front."""
    front = torch.randn(nodes, 6, generator=torch.Generator().manual_seed(seed))
    return [torch.nn.functional.normalize(x, dim=1) for x in (front, front[:, :4].tanh() - front[:, 2:])]


def estimator(norm='batch'):
    torch.manual_seed(0)
    return AttentionEstimator((6, 4), num_heads=4, norm=norm)


@pytest.mark.parametrize('norm', ['batch', 'layer'])
def test_the_optimiser_is_the_published_one(norm, monkeypatch):
    model, other, seen = estimator(norm), estimator(norm), []
    make = torch.optim.SGD
    monkeypatch.setattr(torch.optim, 'SGD', lambda p, **kwargs: seen.append(kwargs) or make(p, **kwargs))
    train_estimator(model, [vectors(8, i) for i in range(9)], 5)
    # published is a penalty of 5e-4 times the sum of squares, whose gradient is 1e-3 times the weights
    assert seen == [dict(lr=.1, momentum=.9, nesterov=True, weight_decay=2 * 5e-4)]
    optimizer = make(other.parameters(), **seen[0])
    with other.learning():
        for i in range(5):
            optimizer.zero_grad()
            other(vectors(8, i)).backward()
            optimizer.step()
    other.trained.fill_(1)
    torch.manual_seed(0)
    assert model.state_dict().keys() == other.state_dict().keys()
    assert all(p.isfinite().all() and not p.requires_grad for p in model.parameters())


def test_batches_of_few_nodes_are_passed_over():
    model = estimator()
    before = model.state_dict()['pairs.0.key.1.running_mean'].clone()
    train_estimator(model, [vectors(n, n) for n in (0, 1)], 2)
    assert torch.equal(model.state_dict()['pairs.0.key.1.running_mean'], before)
    train_estimator(model, [vectors(2, 0)], 1)
    assert not torch.equal(model.state_dict()['pairs.0.key.1.running_mean'], before)


def test_random_states_are_kept():
    state = torch.get_rng_state()
    train_estimator(estimator(), [vectors(8, 0)], 1)
    assert torch.equal(torch.get_rng_state(), state)
