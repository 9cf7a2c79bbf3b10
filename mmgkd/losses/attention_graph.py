"""MHGD: the attention graphs of Lee and Song (BMVC 2019) between consecutive depths."""
from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence

import torch
from mmdet.registry import MODELS
from mmengine.dist import master_only
from mmengine.logging import print_log
from torch import Tensor

from ..checkpoint import load_weights
from ..features import valid_cells
from ..functional import aligned_vectors, graph_kl, mean_vectors, principal_vectors
from ..functional.attention_graph import REDUCTIONS
from ..functional.checks import check_one_of
from ..gradient_rule import RULES
from ..nodes import InstanceNodes
from ..rois import evenly_spread, instance_boxes
from ..running import epoch_length, trained_model
from .attention_estimator import NORMS, AttentionEstimator, train_estimator
from .base import DistillLoss
from .checks import check_weights

__all__ = ['AttentionGraphLoss']

NODES = ('images', 'instances')
COMPRESSIONS = ('svd', 'mean')


@MODELS.register_module()
class AttentionGraphLoss(DistillLoss):
    r""":math:`\mathrm{KL}(G^S \| G^T)` of the graphs in which the nodes of a level attend to those of the level before.

    "Graph-based Knowledge Distillation by Multi-head Attention Network" (Lee and Song, BMVC 2019). A node is a matrix
    of cells by channels, compressed to one unit vector per level. Attention heads are trained first, on the teacher
    alone, to estimate the vectors of a level from those of the level before; :class:`mmgkd.hooks.PrepareLossesHook`
    calls for that. They are then frozen, and read the graphs of student and teacher alike.

    Published are images as nodes, for classifiers. Instances, layer norms and the mean over rows are this project's.

    Args:
        loss_weight (float): Factor on the only term, ``attention``.
        nodes (str): ``instances``: the ground-truth boxes, each RoIAligned from every level; for detectors.
            ``images``: the maps of each image, for classifiers.
        compress (str): ``svd``, the leading singular vectors, see :func:`mmgkd.functional.aligned_vectors`; ``mean``,
            the mean over cells, is faster.
        num_heads (int): Attention heads between two levels.
        norm (str): In the heads: ``batch``, or ``layer``, for few nodes or numbers of them that vary. ``batch``, being
            frozen, also magnifies how a student differs from the teacher, until the tanh passes no gradient on.
        tanh (bool): Smooth the graphs, as the authors' code does, see :func:`mmgkd.functional.graph_kl`.
        reduction (str): ``mean`` over levels, heads and nodes, so that a weight holds for any number of them. ``sum``,
            published, grows with the nodes and is meant to be held down by ``gradient_rule='full'``.
        gradient_rule (str): See :mod:`mmgkd.gradient_rule`; published is ``full``.
        max_nodes (int): Of more instances in a batch, so many are taken, evenly spread over them.
        estimator (str, optional): A file or URL of trained heads. Otherwise they are trained, and stored as
            ``<name>_estimator.pth`` in the work folder.
        estimator_epochs (int): How long they are trained.
        estimator_iters (int, optional): The same in iterations, instead of epochs.
        estimator_lr (float): Learning rate of that.

    Raises:
        ValueError: An option is unknown or out of range.
    """

    def __init__(self, *, loss_weight: float = 1., nodes: str = 'instances', compress: str = 'svd', num_heads: int = 8,
                 norm: str = 'batch', tanh: bool = True, reduction: str = 'mean', gradient_rule: str = 'none',
                 max_nodes: int = 128, estimator: str | None = None, estimator_epochs: int = 40,
                 estimator_iters: int | None = None, estimator_lr: float = 0.1) -> None:
        super().__init__()
        check_one_of(NODES, nodes=nodes)
        check_one_of(COMPRESSIONS, compress=compress)
        check_one_of(NORMS, norm=norm)
        check_one_of(REDUCTIONS, reduction=reduction)
        check_one_of(RULES, gradient_rule=gradient_rule)
        for name, given in (('num_heads', num_heads), ('max_nodes', max_nodes), ('estimator_epochs', estimator_epochs),
                            ('estimator_iters', 1 if estimator_iters is None else estimator_iters)):
            if not isinstance(given, int) or given < 1:
                raise ValueError(f'{name} must be an int of at least 1, got {given!r}')
        if not estimator_lr > 0:
            raise ValueError(f'estimator_lr must be above 0, got {estimator_lr}')
        self.weights = {'attention': loss_weight}
        check_weights(self)
        self.options = dict(tanh=tanh, reduction=reduction)
        self.gradient_rule = gradient_rule
        self.instances, self.compress, self.max_nodes = nodes == 'instances', compress, max_nodes
        self.boxes = InstanceNodes(pool=False, every_level=True, max_per_image=max_nodes)
        self.heads = dict(num_heads=num_heads, norm=norm)
        self.stored, self.epochs, self.iters, self.lr = estimator, estimator_epochs, estimator_iters, estimator_lr
        self._ready = False

    def prepare(self, student_shapes: Sequence[tuple[int, int, int]],
                teacher_shapes: Sequence[tuple[int, int, int]]) -> None:
        """Make the heads; there is nothing to attend to in one level alone."""
        if len(teacher_shapes) < 2:
            raise ValueError('AttentionGraphLoss compares consecutive levels and needs at least two, got '
                             f'{len(teacher_shapes)}: let the backbone or neck give more, or choose more by connector')
        self.estimator = AttentionEstimator([shape[0] for shape in teacher_shapes], **self.heads)

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`.

        Raises:
            RuntimeError: The heads are not trained.
        """
        if not self._ready and not self.estimator.trained:
            raise RuntimeError('AttentionGraphLoss: its attention heads are not trained yet. Add dict(type='
                               "'PrepareLossesHook') to custom_hooks (distill_hooks of configs/_base_/mhgd.py)")
        self._ready = True
        students, teachers = [], []
        for student, teacher in self._nodes(student_feats, teacher_feats, data_samples):
            teachers.append(self._teacher_vectors(teacher))
            students.append(mean_vectors(student) if self.compress == 'mean'
                            else aligned_vectors(student, teachers[-1]))
        graphs = [self.estimator.logits(vectors) for vectors in (students, teachers)]
        values = [graph_kl(s, t, **self.options) for s, t in zip(*graphs, strict=True)]
        share = 1 / len(values) if self.options['reduction'] == 'mean' else 1
        return {'attention': [share * value for value in values]}

    def before_training(self, runner) -> None:
        """Have the heads trained: by a checkpoint that is resumed, a file, or on the spot."""
        if runner._resume and self.estimator.trained:
            print_log('attention estimator: trained, with the checkpoint', 'current')
        elif self.stored is not None:
            self._load(self.stored)
        else:
            self._train(runner)

    def _nodes(self, student_feats, teacher_feats, data_samples) -> list[tuple[Tensor, Tensor]]:
        """(V, P, C) of student and teacher, per level."""
        if not self.instances:
            return list(zip(*(_image_cells(feats, data_samples) for feats in (
                student_feats, [x.detach() for x in teacher_feats])), strict=True))
        boxes = _spread([boxes for boxes, _ in instance_boxes(data_samples)], self.max_nodes)
        found = self.boxes(student_feats, teacher_feats, data_samples, boxes)
        return [(nodes.student[0], nodes.teacher[0]) for nodes in found]

    def _teacher_vectors(self, nodes: Tensor) -> Tensor:
        """(V, C) unit vectors of (V, P, C)."""
        return (mean_vectors if self.compress == 'mean' else principal_vectors)(nodes)

    def _load(self, path: str) -> None:
        found, own = load_weights(path), self.estimator.state_dict()
        wrong = [f'{key}: {tuple(found[key].shape) if key in found else "not"} in the file, '
                 f'{tuple(own[key].shape) if key in own else "not"} expected'
                 for key in sorted(found.keys() | own.keys())
                 if key not in found or key not in own or found[key].shape != own[key].shape]
        if wrong:
            raise ValueError(f'estimator {path!r} does not fit: {"; ".join(wrong[:3])}'
                             f'{f"; and {len(wrong) - 3} more" if len(wrong) > 3 else ""}. It must have been trained '
                             'with the same levels, channels, num_heads and norm')
        self.estimator.load_state_dict(found)
        print_log(f'attention estimator: loaded from {path}', 'current')

    def _train(self, runner) -> None:
        distiller = trained_model(runner)
        name = next(name for name, loss in distiller.distill_losses.items() if loss is self)
        path = os.path.join(runner.work_dir, f'{name}_estimator.pth')
        iterations = self.iters or self.epochs * epoch_length(runner)
        print_log(f'attention estimator: trained on the teacher for {iterations} iterations before the first of the '
                  f"student. Stored in {path}: AttentionGraphLoss(estimator='{path}') spares that", 'current')

        def vectors() -> Iterator[list[Tensor]]:
            for batch in _batches(runner.train_loop):
                with torch.no_grad(), runner.optim_wrapper.optim_context(runner.model):
                    feats, samples = distiller.read_teacher(batch)
                    found = [self._teacher_vectors(x) for _, x in self._nodes(feats, feats, samples)]
                yield found
        train_estimator(self.estimator, vectors(), iterations, lr=self.lr)
        master_only(torch.save)(dict(state_dict=self.estimator.state_dict()), path)


def _batches(loop) -> Iterator:
    """The batches of a training loop, without end."""
    if hasattr(loop, 'dataloader_iterator'):  # one that is iterated over once only, and goes on from there
        yield from loop.dataloader_iterator
    for epoch in itertools.count():
        for sampler in (loop.dataloader.sampler, getattr(loop.dataloader.batch_sampler, 'sampler', None)):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)
        yield from loop.dataloader


def _image_cells(feats: Sequence[Tensor], data_samples: Sequence | None) -> list[Tensor]:
    """(N, H * W, C) per level, zero on padding, which changes no direction."""
    return [(feat if valid is None else feat * valid.unsqueeze(1)).flatten(2).mT
            for feat, valid in zip(feats, valid_cells(feats, data_samples), strict=True)]


def _spread(boxes: list[Tensor], most: int) -> list[Tensor]:
    """At most so many of all (K, 4) boxes together, evenly spread over them."""
    image = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(b) for b in boxes])).to(boxes[0].device)
    kept, image = evenly_spread(torch.cat(boxes), image, most)
    return list(kept.split(image.bincount(minlength=len(boxes)).tolist()))
