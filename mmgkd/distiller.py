"""The distiller: a student that learns from its data and from a teacher."""
from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch
from mmdet.registry import MODELS
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from .detectors import matching_maps, model_config
from .features import capture_output, feature_maps
from .gradient_rule import check_rules, fork_output, hold_down
from .losses.building import build_losses
from .readings import check_heads, needed_readings, watch_head
from .state import keep_plain_keys, plain_name
from .student import inherit_weights, parse_inherit
from .teacher import Teacher

__all__ = ['Distiller']


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains a student on its own losses and on the likeness of its maps, or predictions, to a teacher's.

    The maps are those of the neck, or of the backbone where there is no neck that gives any, as in classifiers.
    Everything but training is the student's: prediction, features, the keys of a checkpoint. The teacher is held
    outside the module tree and loaded when training starts; inference needs neither its config nor its weights.
    Attributes of the student are read as if the distiller had them; to change one, set it on ``student``.

    Args:
        student (str | dict): A model config, a config file, an ``mmdet::`` name, or
            ``dict(config=..., overrides=...)``.
        teacher (dict): ``config`` and ``checkpoint``, and the other arguments of :class:`mmgkd.teacher.Teacher`.
        distill_losses (dict): Name to config of each loss. A term of the loss ``gkd`` is trained on as
            ``loss_gkd_<term>``; its raw value is logged as ``gkd_<term>``.
        connector (dict, optional): Options of what makes the student's maps fit, and its type, if that is not
            :class:`NeckConnector`. One of your own is built with ``student_shapes``, ``teacher_shapes`` and
            ``same_shape`` too, has that class's ``shapes`` and ``teacher_levels``, and maps both sides' levels.
        inherit (str, optional): Parts to copy from the teacher before training, such as ``'neck+head'``.
        data_preprocessor (dict, optional): The student's, if it has none of its own: MMEngine's runner gives the one
            that stands outside the model, as in mmpretrain's configs.

    Raises:
        FileNotFoundError: No config of the student. What is wrong with the teacher's is said when training starts.
        ValueError: A config does not fit; the message says which, and what was expected.
    """

    def __init__(self, *, student: str | dict, teacher: dict, distill_losses: dict[str, dict],
                 connector: dict | None = None, inherit: str | None = None,
                 data_preprocessor: dict | None = None) -> None:
        config = model_config(student)
        if data_preprocessor:
            config.setdefault('data_preprocessor', data_preprocessor)
        detector = MODELS.build(config)
        super().__init__(data_preprocessor=detector.data_preprocessor)
        self.student = detector
        self.teacher = Teacher(**teacher)
        self.inherit = parse_inherit(inherit)
        self.overwritten: bool | None = None
        """Whether a checkpoint was loaded over what was inherited; None before that is."""
        self.distill_weight = 1.
        """Factor on all distillation losses, which :class:`DistillWeightHook` sets; at 0 the teacher is not run."""
        self.epoch, self.loss_scaler = 0, None
        """What gradient rules go by; :class:`PrepareLossesHook` sets them."""
        with torch.random.fork_rng(devices=[]):  # the student starts as it would alone
            self.distill_losses = build_losses(distill_losses)
            self._rule = check_rules(self.distill_losses)
            self.needs = needed_readings(self.distill_losses.values())
            try:
                maps = matching_maps(config, self.teacher.model_config())
            except (TypeError, ValueError):
                raise
            except Exception as error:  # files or packages that inference can do without: training will say so
                self.connector, self._unready = None, error
            else:
                self._unready = None
                self._maps_from, self._teacher_maps_from = (m.module for m in maps)
                self.connector = MODELS.build(dict(
                    dict(type='NeckConnector', student_shapes=maps[0].shapes, teacher_shapes=maps[1].shapes,
                         same_shape=any(loss.same_shape for loss in self.distill_losses.values())),
                    **(connector or {})))
                for loss in self.distill_losses.values():
                    loss.prepare(*self.connector.shapes)
        keep_plain_keys(self)

    def loss(self, inputs: Tensor, data_samples: Sequence) -> dict[str, Tensor | list[Tensor]]:
        """The student's own losses beside those of distillation.

        Args:
            inputs (Tensor): (N, C, H, W), preprocessed for the student.
            data_samples (Sequence): One per image, with its boxes and labels.
        """
        if self.overwritten:
            self._say_overwritten()
        if self.distill_weight == 0:
            rest = self._rest()
            return self._student_losses(inputs, data_samples) | ({'loss_distill': rest} if rest else {})
        self._load_teacher()
        teacher_feats = self.teacher(inputs, data_samples)
        maps_from = getattr(self.student, self._maps_from)
        with (capture_output(maps_from) as outputs, fork_output(self, maps_from) as forks,
              watch_head(self.student, self.needs) as head):
            student_losses = self._student_losses(inputs, data_samples)
        student_feats = feature_maps(outputs[0])
        readings = head.read(student_feats, teacher_feats, self.teacher, data_samples)
        limited_feats = self.connector(forks, teacher_feats)[0] if forks else None
        student_feats, teacher_feats = self.connector(student_feats, teacher_feats)
        terms = self.distill(student_feats, teacher_feats, data_samples, readings, limited_feats)
        return hold_down(self, student_losses, terms)

    def _student_losses(self, inputs: Tensor, data_samples: Sequence) -> dict[str, Tensor | list[Tensor]]:
        """Under their own names, but for one named ``loss`` (mmpretrain's), which is what the sum is logged as."""
        losses = self.student.loss(inputs, data_samples)
        return {'loss_task' if name == 'loss' else name: value for name, value in losses.items()}

    def distill(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor], data_samples: Sequence,
                readings: dict | None = None,
                limited_feats: Sequence[Tensor] | None = None) -> dict[str, Tensor | list[Tensor]]:
        """Every term weighted, to train on, and raw, to read.

        Args:
            student_feats (Sequence[Tensor]): (N, C, H, W) per level.
            teacher_feats (Sequence[Tensor]): Of the same shapes, if any loss needs that.
            data_samples (Sequence): One per image.
            readings (dict, optional): Of :mod:`mmgkd.readings`, those that any loss needs.
            limited_feats (Sequence[Tensor], optional): The student's once more, for losses of ``feature`` rule.
        """
        terms = {}
        rest = self._rest()
        for name, loss in self.distill_losses.items():
            needed = {need: readings[need] for need in loss.needs}
            feats = limited_feats if limited_feats and loss.gradient_rule == 'feature' else student_feats
            for term, values in loss(feats, teacher_feats, data_samples, **needed).items():
                if term not in loss.weights:
                    raise ValueError(f'{type(loss).__name__}: forward gave a term {term!r}, and its weights have none '
                                     f'for it, but for {list(loss.weights)}')
                if not isinstance(values, (list, tuple)):
                    raise TypeError(f'{type(loss).__name__}: forward must give a list of scalars for each term, one '
                                    f'per level, got a {type(values).__name__} for {term!r}')
                factor = self.distill_weight * loss.weights[term]
                terms[f'{name}_{term}'] = torch.stack([value.detach() for value in values]).sum()
                terms[f'loss_{name}_{term}'] = [factor * value for value in values] + rest
                rest = []
        return terms

    def forward(self, inputs: Tensor, data_samples: Sequence | None = None, mode: str = 'tensor'):
        """``mode='loss'`` distils; ``predict`` and ``tensor`` are the student's."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def init_weights(self) -> None:
        """Initialise the student, let it inherit, and load the teacher: what fails, fails before training.

        A second call, as by a runner that trains for longer, leaves the student as it is.
        """
        inherits = bool(self.inherit) and not self.is_init
        super().init_weights()
        weights = self.teacher.weights() if inherits else None
        self._load_teacher(weights)
        if inherits:
            inherit_weights(self.student, weights, self.inherit)
            self.overwritten = False

    def named_parameters(self, prefix: str = '', *args, **kwargs) -> Iterator[tuple[str, nn.Parameter]]:
        """Under a plain detector's names, as in a checkpoint: by these optimisers set learning rates."""
        for name, parameter in super().named_parameters(prefix, *args, **kwargs):
            yield plain_name(name, prefix and prefix + '.'), parameter

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """A parameter's layer and how many there are, for mmpretrain's layer-wise learning rates."""
        return self.student.get_layer_depth(plain_name(param_name))

    def _say_overwritten(self) -> None:
        self.overwritten = False
        if not MessageHub.get_current_instance().get_info('iter'):  # else the training has been resumed
            print_log(f'student: a checkpoint was loaded over what it had inherited ({"+".join(self.inherit)}): leave '
                      'one out, load_from=None or model.inherit=None', 'current', logging.WARNING)

    def _load_teacher(self, weights: dict[str, Tensor] | None = None) -> None:
        if self._unready is not None:
            raise self._unready
        if self.teacher.detector is None:
            self.teacher.load(self.data_preprocessor, weights, maps_from=self._teacher_maps_from,
                              with_head=bool(self.needs))
            check_heads(self.student, self.teacher.detector, self.needs)

    def read_teacher(self, data: dict) -> tuple[list[Tensor], Sequence]:
        """The teacher's maps at the levels that losses get, and the samples, of a batch of the data loader."""
        self._load_teacher()
        batch = self.data_preprocessor(data, True)
        feats = self.teacher(batch['inputs'], batch['data_samples'])
        return [feats[i] for i in self.connector.teacher_levels], batch['data_samples']

    def own_parameters(self) -> list[Tensor]:
        """What distillation trains beside the student."""
        return [p for module in (self.connector, self.distill_losses) if module
                for p in module.parameters() if p.requires_grad]

    def _rest(self) -> list[Tensor]:
        """A zero through whatever distillation trains: distributed training waits for each parameter's gradient."""
        own = [(p * 0).sum() for p in self.own_parameters()]
        return [sum(own)] if own else []

    def __getattr__(self, name: str):
        """The student's attributes too (``bbox_head``, ``with_mask``, ...), which mmdet's hooks reach for."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            student = self.__dict__.get('_modules', {}).get('student')
            if student is None or not hasattr(student, name):
                raise
            return getattr(student, name)
