"""What a benchmark measures: the parts of a training step, each ready to run again and again on the same batch."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmgkd import Distiller
from mmgkd.detectors import model_config

STUDENT, LIMIT, PLAIN_TEACHER, TEACHER = 'student alone', 'naive limit', 'teacher as it is', 'teacher in the distiller'
FLOOR = 'maps read twice, a gradient written'
PREDICT, PREDICT_DISTILLED = 'prediction, plain student', 'prediction, distiller'
Run = Callable[[], object]


@dataclass
class Settings:
    """What is measured with.

    Args:
        shape (tuple[int, int]): Height and width of the images of a synthetic batch, in pixels.
        batch (int): Images in it.
        device (torch.device): Where.
        real_data (bool): Take the first batch of the config's own training data instead.
    """
    shape: tuple[int, int]
    batch: int
    device: torch.device
    real_data: bool = False


class Bench:
    """The parts of distilling one student from one teacher, with one or several methods.

    Args:
        configs (Mapping[str, Config]): Distillations by name; the student and the teacher are the first one's.
        settings (Settings): Data and device.
    """

    def __init__(self, configs: Mapping[str, Config], settings: Settings) -> None:
        self.configs, self.settings = configs, settings
        self.first = next(iter(configs.values()))
        init_default_scope(self.first.get('default_scope', 'mmdet'))
        MessageHub.get_current_instance().update_info('iter', 0)  # a YOLOX's preprocessor reads it
        self.student_config = model_config(self.first.model.student)
        self.batch = self._batch()
        self.folder = tempfile.TemporaryDirectory()
        self.teacher_file = str(Path(self.folder.name) / 'teacher.pth')
        torch.save(dict(state_dict=self._plain_teacher().state_dict()), self.teacher_file)

    def parts(self) -> dict[str, Callable[[], Run]]:
        """By name, what builds what is timed."""
        found = {STUDENT: self.student_step, LIMIT: self.naive_limit, PLAIN_TEACHER: self.plain_teacher,
                 TEACHER: self.teacher, FLOOR: self.floor, PREDICT: lambda: self.prediction(self.student()),
                 PREDICT_DISTILLED: lambda: self.prediction(self.distiller(next(iter(self.configs))))}
        for name, cfg in self.configs.items():
            found[f'{name}: step'] = partial(self.distilled_step, name)
            for key, options in cfg.model.distill_losses.items():
                weights = [k for k in options if k.endswith('_weight') and options[k]]
                for weight in weights if len(weights) > 1 else []:
                    others = {other: 0. for other in weights if other != weight}
                    found[f'{name}: {weight.removesuffix("_weight")} alone'] = partial(self.terms, name, key, others)
                found[f'{name}: {key}, all terms'] = partial(self.terms, name, key)
        return found

    def student(self) -> nn.Module:
        return self._build(_without_weights(self.student_config))

    def student_step(self) -> Run:
        return self.step(self.student(), self.first)

    def distilled_step(self, name: str) -> Run:
        return self.step(self.distiller(name), self.configs[name])

    def naive_limit(self) -> Run:
        """What distilling cannot do without: the student's step, and the teacher's maps, by the plain models."""
        teacher, step = self.plain_teacher(), self.student_step()

        def run() -> object:
            teacher()  # whose maps are not kept
            return step()
        return run

    def plain_teacher(self) -> Run:
        detector = self._plain_teacher()
        inputs = detector.data_preprocessor(self.data(), True)['inputs']
        return torch.no_grad()(lambda: detector.extract_feat(inputs))

    def _plain_teacher(self) -> nn.Module:
        teacher = self.first.model.teacher
        config = model_config(teacher.config, teacher.get('overrides'), role='teacher')
        return self._build(_without_weights(config)).eval()

    def teacher(self) -> Run:
        model = self.distiller(next(iter(self.configs)))
        data = model.data_preprocessor(self.data(), True)
        return lambda: model.teacher(data['inputs'], data['data_samples'])

    def prediction(self, model: nn.Module) -> Run:
        """The network of a student, without what follows it, whose time depends on how many boxes it finds."""
        model.eval()
        inputs = model.data_preprocessor(self.data(), False)['inputs']
        return torch.no_grad()(lambda: model.extract_feat(inputs))

    def step(self, model: nn.Module, cfg: Config) -> Run:
        optim = build_optim_wrapper(model, deepcopy(cfg.optim_wrapper))
        for group in optim.optimizer.param_groups:
            group['lr'] = 0.  # a network that learns finds other boxes, and takes another time
        if self.settings.device.type == 'cpu' and 'Amp' in cfg.optim_wrapper.get('type', ''):
            raise ValueError('mixed precision (AmpOptimWrapper) needs a GPU')
        return lambda: model.train_step(self.data(), optim)

    def terms(self, name: str, key: str, change: Mapping[str, float] | None = None) -> Run:
        """One loss, forward and backward down to the student's maps, connector included."""
        losses = {key: dict(self.configs[name].model.distill_losses[key], **(change or {}))}
        model = self.distiller(name, losses)
        distill = model.distill
        student_feats, teacher_feats, samples, readings = self._given(model)
        leaves: list[Tensor] = []
        student_feats, readings = (_leaves(x, leaves) for x in (student_feats, readings))

        def run() -> list[Tensor]:
            for leaf in leaves:
                leaf.grad = None
            values = distill(*model.connector(student_feats, teacher_feats), samples, readings,
                             student_feats if model._rule == 'feature' else None)
            model.parse_losses(values)[0].backward()
            return leaves
        return run

    def floor(self) -> Run:
        """What every loss that reads the maps has to move: both sides forward and backward, and a gradient."""
        student, teacher, *_ = self._given(self.distiller(next(iter(self.configs))))
        student, teacher = ([x.detach().contiguous() for x in maps] for maps in (student, teacher))
        grads = [torch.empty_like(x) for x in student]

        def run() -> None:
            for s, t, grad in zip(student, teacher, grads, strict=True):
                s.sum(), t.sum(), t.sum(), torch.neg(s, out=grad)
        return run

    def _given(self, model: Distiller) -> tuple:
        """What a step gives the connector and the losses: maps of both sides, data samples and readings."""
        given = []
        connect, distill = model.connector.forward, model.distill
        model.connector.forward = lambda *feats: given.append(feats) or connect(*feats)
        model.distill = lambda *args: given.append(args) or distill(*args)
        data = model.data_preprocessor(self.data(), True)
        with torch.no_grad():
            model(**data, mode='loss')
        model.connector.forward, model.distill = connect, distill
        (student_feats, teacher_feats), (*_, samples, readings, _) = given[0], given[-1]
        return student_feats, teacher_feats, samples, readings

    def models(self) -> dict[str, dict[str, float]]:
        """Parameters of student and teacher, and the floating-point operations for their maps."""
        found = {}
        for side, model in (('student', self.student()), ('teacher', self._plain_teacher())):
            with FlopCounterMode(display=False) as counter:
                self.prediction(model)()
            found[side] = dict(parameters=sum(p.numel() for p in model.parameters()), flop=counter.get_total_flops())
        return found

    def distiller(self, name: str, losses: Mapping[str, dict] | None = None) -> Distiller:
        """With random weights on both sides, as these do not change what it costs."""
        config = deepcopy(self.configs[name].model)
        config.student = _without_weights(model_config(config.student))
        config.teacher = dict(config.teacher, checkpoint=self.teacher_file)
        config.inherit = None
        if losses is not None:
            config.distill_losses = losses
        model = self._build(config)
        for key, value in model.named_buffers():
            if key.endswith('estimator.trained'):
                value.fill_(1)  # heads that are trained before the student cost as much untrained
        return model

    def data(self) -> dict:
        """The batch, new each time, since models change theirs."""
        return deepcopy(self.batch)

    def _build(self, config: Mapping) -> nn.Module:
        """All students have the same weights."""
        model = MODELS.build(config)
        set_random_seed(0)
        model.init_weights()
        return model.to(self.settings.device).train()

    def _batch(self) -> dict:
        if self.settings.real_data:
            loader = deepcopy(self.first.train_dataloader)
            loader |= dict(num_workers=0, persistent_workers=False, batch_size=self.settings.batch)
            return next(iter(Runner.build_dataloader(loader, seed=0)))
        from mmdet.testing import demo_mm_inputs
        head = self.student_config.get('bbox_head') or self.student_config.get('roi_head', {}).get('bbox_head')
        if head is None:
            raise SystemExit('tools/benchmark.py: synthetic batches are for detectors; say --real-data')
        classes = (head[0] if isinstance(head, list) else head).num_classes
        return demo_mm_inputs(self.settings.batch, [(3, *self.settings.shape)] * self.settings.batch,
                              num_items=[8] * self.settings.batch, num_classes=classes, use_box_type=False)


def _leaves(value, found: list[Tensor]):
    """Without its history: tensors that asked for a gradient, or are floats of a tuple, are leaves that collect one."""
    if isinstance(value, Tensor):
        value = value.detach()
        if value.is_floating_point():
            found.append(value.requires_grad_())
        return value
    if isinstance(value, Mapping):
        return {key: _leaves(inner, found) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        made = [_leaves(inner, found) for inner in value]
        return type(value)(*made) if hasattr(value, '_fields') else type(value)(made)
    return value


def _without_weights(config):
    """A model config that starts from random weights: none are to be downloaded."""
    if isinstance(config, Mapping):
        return type(config)({key: _without_weights(value) for key, value in config.items()
                             if key not in ('init_cfg', 'pretrained') or not _is_pretrained(value)})
    return type(config)(_without_weights(x) for x in config) if isinstance(config, (list, tuple)) else config


def _is_pretrained(value) -> bool:
    return isinstance(value, str) or (isinstance(value, Mapping) and value.get('type') == 'Pretrained')
