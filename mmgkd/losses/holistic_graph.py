"""HKD: individual and relational knowledge in one embedding, contrasted between the networks."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from ..functional import float32_island, info_nce, knn_graph, prediction_graph, tag_convolution, unit_rows
from ..functional.checks import check_at_least, check_one_of, check_temperature
from ..nodes import node_source
from ..rois import evenly_spread
from .base import DistillLoss
from .checks import check_weights
from .instance_queue import InstanceQueue
from .memory_bank import MemoryBank, dataset_labels

__all__ = ['HolisticGraphLoss']

NETWORKS = ('student', 'teacher')
MEMORIES = {'bank': 'images', 'queue': 'instances'}
"""What each memory is for, where ``nodes`` does not say."""


@MODELS.register_module()
class HolisticGraphLoss(DistillLoss):
    r"""HKD of Zhou et al., "Distilling Holistic Knowledge with Graph Neural Networks" (ICCV 2021).

    Features x of student and teacher are embedded, :math:`e = n_2(E x)`, and smoothed over the graph of each node's
    nearest neighbours, :math:`g = n_2(\Theta_0 e_i + \Theta_1 \mathrm{mean}_{j \in \mathrm{Nb}(i)} e_j + b)`, both
    embeddings and convolutions being learned for either network. InfoNCE then draws together what the two networks
    have of a node, against what a memory has of nodes of other classes:

    .. math::
        L_\text{ind} = \mathrm{NCE}(e_S; u_T) + \mathrm{NCE}(e_T; u_S), \qquad
        L_\text{graph} = \mathrm{NCE}(g_S; p_T) + \mathrm{NCE}(g_T; p_S)

    ``memory='bank'`` is the paper's, for classifiers: nodes are the images of the batch, their features those of the
    last map, averaged, and edges are similar predictions. The memory holds an entry of every image of the data set,
    a running mean of its e. The positives are the image's entry u as it was before this batch, and
    :math:`p = n_2(0.75\,u + 0.25\,g)`. It needs ``sample_idx`` in each sample's metainfo, and
    :class:`mmgkd.hooks.PrepareLossesHook`, which has the classes of all images read before training.

    ``memory='queue'`` is this project's, for detectors: nodes are the boxes of the batch, edges are similar
    embeddings, the positives are what the other network has of the same box at the same time, and the memory holds
    the latest boxes of all processes, those of this batch included.

    The paper's code has peculiarities, which its numbers rest on: an anchor's negatives are of its own network though
    its positive is of the other; a batch of less than 8 gives no graph term and leaves the memory as it is; smoothed
    anchors meet negatives that are not smoothed; and embeddings have a bias, so that the scale of features matters.
    ``published`` says whether to have all of them. Without them negatives are of the positive's network, a graph
    needs two nodes, smoothed embeddings have a memory of their own, and there is no bias.

    A bank takes 8 n D bytes in all, twice that if not ``published``, as it does in a checkpoint. Negatives are not
    gathered: each anchor is scored against the whole bank, of which its negatives are a mask. That is exact, and takes
    N n bytes for the mask and 4 N n for scores, of which at most 128 MiB are held at a time (13 MB for 64 of the 50,000
    images of CIFAR-100), instead of 4 N M D per network (512 MiB). None of it is kept for the backward pass.

    Args:
        individual_weight (float): Factor on the first term; a term of weight 0 is not computed.
        graph_weight (float): Factor on the second.
        memory (str): ``bank`` or ``queue``.
        nodes (str | dict, optional): ``images`` or ``instances``, or a dict with such a type and its options;
            ``images`` with a bank and ``instances`` with a queue by default.
        edges (str, optional): ``predictions``, the classifier's for an image or those of the detector's head at a
            box, or ``embedding``, which needs no head. The former by default with a bank, the latter with a queue.
        published (bool, optional): See above; True with a bank and False with a queue by default.
        negatives (str, optional): Of the anchor's ``own`` network, or ``cross``, of the other; by default as
            ``published`` says.
        embed_dims (int): D.
        neighbours (int): Of a node in its graph, itself included.
        temperature (float): Of InfoNCE.
        num_negatives (int): M, so many are drawn from a bank for each image.
        momentum (float): Of a bank's running means.
        smoothing (float): The share of u in p, with a bank.
        queue_size (int): Entries of a queue.

    Raises:
        ValueError: An option is unknown or out of range, or does not go with the memory.
    """

    same_shape = False

    def __init__(self, *, individual_weight: float = 3., graph_weight: float = 3., memory: str = 'bank',
                 nodes: str | dict | None = None, edges: str | None = None, published: bool | None = None,
                 negatives: str | None = None, embed_dims: int = 128, neighbours: int = 8, temperature: float = 0.07,
                 num_negatives: int = 16384, momentum: float = 0.9, smoothing: float = 0.75,
                 queue_size: int = 4096) -> None:
        super().__init__()
        self.weights = {'individual': individual_weight, 'graph': graph_weight}
        self.terms = tuple(term for term, weight in self.weights.items() if weight)
        check_weights(self)
        check_at_least(1, embed_dims=embed_dims, neighbours=neighbours, num_negatives=num_negatives,
                       queue_size=queue_size)
        check_temperature(temperature)
        for name, share in dict(momentum=momentum, smoothing=smoothing).items():
            if not 0 <= share <= 1:
                raise ValueError(f'{name} must be from 0 to 1, got {share}')
        check_one_of(MEMORIES, memory=memory)
        banked = memory == 'bank'
        self.published = banked if published is None else published
        self.negatives = negatives or ('own' if self.published else 'cross')
        self.edges = edges or ('predictions' if banked else 'embedding')
        check_one_of(('own', 'cross'), negatives=self.negatives)
        check_one_of(('predictions', 'embedding'), edges=self.edges)
        nodes = nodes or MEMORIES[memory]
        self.instances = _check_nodes(nodes, banked) == 'instances'
        self.nodes = node_source(nodes)
        if 'graph' in self.terms and self.edges == 'predictions':
            self.needs = ('instance_logits' if self.instances else 'predictions',)
        self.min_nodes = 8 if self.published else 2
        self.embed_dims, self.neighbours, self.temperature = embed_dims, neighbours, temperature
        self.smoothing = smoothing
        spaces = 2 if self.published or 'graph' not in self.terms else 4  # e of both networks, then g of both
        self.memory = MemoryBank(spaces=spaces, dims=embed_dims, num_negatives=num_negatives, momentum=momentum) \
            if banked else InstanceQueue(spaces=spaces, dims=embed_dims, size=queue_size)

    def prepare(self, student_shapes: Sequence[tuple[int, int, int]],
                teacher_shapes: Sequence[tuple[int, int, int]]) -> None:
        """Make E and the graph convolutions of both networks.

        Raises:
            ValueError: Instances are read from levels that differ in channels.
        """
        self.embed, self.convolve = nn.ModuleDict(), nn.ModuleDict()
        for name, side, shapes in zip(NETWORKS, ('own', 'other'), (student_shapes, teacher_shapes), strict=True):
            if self.instances and len({c for c, _, _ in shapes}) > 1:
                raise ValueError('instances are read from all levels, which must have as many channels, got '
                                 f'{[c for c, _, _ in shapes]} of the {name}')
            self.embed[side] = nn.Linear(shapes[-1][0], self.embed_dims, bias=self.published)
            if 'graph' in self.terms:
                self.convolve[side] = nn.Linear(2 * self.embed_dims, self.embed_dims, bias=self.published)
                nn.init.xavier_normal_(self.convolve[side].weight, gain=2 ** .5)

    def before_training(self, runner) -> None:
        """Have a bank made of the classes of the images that are trained on.

        Raises:
            ValueError: They are not all of one class each, or not numbered.
        """
        if isinstance(self.memory, MemoryBank):
            self.memory.fill(dataset_labels(runner.train_dataloader.dataset))

    def forward(self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor],
                data_samples: Sequence | None = None, *, predictions=None,
                instance_logits=None) -> dict[str, list[Tensor]]:
        """See :class:`DistillLoss`.

        Raises:
            ValueError: Samples lack what the memory needs, or edges their predictions.
            RuntimeError: The bank has not been filled.
        """
        features, ids = self._nodes(student_feats, teacher_feats, data_samples)  # (N, C) of each network, (N,)
        with float32_island(features[0]):
            e = [unit_rows(layer(x.to(layer.weight.dtype)))
                 for layer, x in zip(self.embed.values(), features, strict=True)]  # (N, D) each
            g = self._smoothed(e, instance_logits if self.instances else predictions) if 'graph' in self.terms else []
            fresh = torch.stack([x.detach() for x in (e if self.published else e + g)])  # (S, N, D)
            enough = len(ids) >= self.min_nodes
            kept = len(ids) if enough or not self.published else 0
            counts, old = self.memory.recall(ids, fresh, kept)  # (N, Q) and, of a bank, (S, N, D)
            losses = {}
            if 'individual' in self.terms:
                losses['individual'] = [self._contrast(e, e if old is None else old[:2], self.memory.keys[:2], counts)]
            if g and not enough:
                losses['graph'] = [sum((x * 0).sum() for x in g)]
            elif g:
                positives = g if old is None else [
                    unit_rows(self.smoothing * u + (1 - self.smoothing) * x.detach())
                    for u, x in zip(old[-2:], g, strict=True)]  # (N, D) each
                losses['graph'] = [self._contrast(g, positives, self.memory.keys[-2:], counts)]
            self.memory.update(ids, fresh, kept)  # last: a bank's negatives are those of before
            return losses

    def _smoothed(self, e: list[Tensor], logits) -> list[Tensor]:
        """(N, D) of each network, over its own graph."""
        graphs = self._graphs(e, logits)  # (N, N) each
        return [unit_rows(tag_convolution(x, graph, layer.weight, layer.bias))
                for layer, x, graph in zip(self.convolve.values(), e, graphs, strict=True)]

    def _contrast(self, anchors: Sequence[Tensor], positives: Sequence[Tensor], keys: Tensor,
                  counts: Tensor) -> Tensor:
        """The student's anchors (N, D) against the teacher's positives, and the reverse."""
        own = self.negatives == 'own'
        return sum(info_nce(anchors[i], positives[1 - i], keys[i if own else 1 - i], counts,
                            temperature=self.temperature) for i in range(2))

    def _nodes(self, student_feats, teacher_feats, data_samples) -> tuple[list[Tensor], Tensor]:
        """(N, C) features of each network, and (N,) what the memory knows nodes by: their class, or their image."""
        if self.instances:
            nodes, = self.nodes(student_feats, teacher_feats, data_samples)
            ids = nodes.labels[0]
        else:
            nodes, = self.nodes(student_feats[-1:], teacher_feats[-1:], data_samples)
            ids = _indices(data_samples) if isinstance(self.memory, MemoryBank) else _image_labels(data_samples)
        return [nodes.student[0], nodes.teacher[0]], ids

    def _graphs(self, e: list[Tensor], logits) -> list[Tensor]:
        """(N, N) of each network."""
        if self.edges == 'embedding':
            return [knn_graph(x.detach(), self.neighbours) for x in e]
        if logits is None:
            raise ValueError(f"edges='predictions' needs the reading {self.needs[0]}; edges='embedding' needs none")
        rows = [logits.student, logits.teacher]
        if self.instances:  # lists over images, of all boxes
            rows = [torch.cat([evenly_spread(x, None, self.nodes.max_per_image)[0] for x in side]) for side in rows]
        for name, x in zip(NETWORKS, rows, strict=True):
            if len(x) != len(e[0]):
                raise ValueError(f"edges='predictions' needs one of the {name} for each of the {len(e[0])} nodes, got "
                                 f'{len(x)}')
        return [prediction_graph(x, self.neighbours) for x in rows]


def _indices(data_samples: Sequence | None) -> Tensor:
    """(N,)"""
    if not data_samples or not all('sample_idx' in sample.metainfo for sample in data_samples):
        raise ValueError("memory='bank' needs data samples with sample_idx: add 'sample_idx' to the meta_keys of the "
                         "last step of the training pipeline, or take memory='queue'")
    return torch.tensor([int(sample.metainfo['sample_idx']) for sample in data_samples])


def _image_labels(data_samples: Sequence | None) -> Tensor:
    """(N,)"""
    if not data_samples or not all('gt_label' in sample and sample.gt_label.numel() == 1 for sample in data_samples):
        raise ValueError("a queue of images needs data samples with one gt_label each; for detectors take "
                         "nodes='instances'")
    return torch.cat([sample.gt_label.reshape(1) for sample in data_samples])


def _check_nodes(config: str | dict, banked: bool) -> str:
    """Their kind."""
    options = dict(type=config) if isinstance(config, str) else dict(config)
    if options.get('type') not in MEMORIES.values() or {'pool', 'per_image', 'every_level'} & set(options):
        raise ValueError('HolisticGraphLoss takes pooled nodes that have a class, all of the batch in one graph: '
                         f"nodes='images' or nodes='instances', got {config!r}")
    if banked and options['type'] == 'instances':
        raise ValueError("memory='bank' has an entry per image of a data set, not per instance: take memory='queue'")
    return options['type']

