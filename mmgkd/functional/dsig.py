"""DSIG: the instances of an image as a graph, its nodes and edges compared."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .edges import match_edges, node_pairs, similarity_graph
from .precision import float32_island, working_dtype

__all__ = ['TERMS', 'dsig_terms']

TERMS = ('foreground', 'background', 'edge')


def dsig_terms(student: Tensor, teacher: Tensor, image: Tensor, foreground: Tensor, hard: Tensor, *, num_images: int,
               terms: Sequence[str] = TERMS, background_ratio: float = 7.5) -> dict[str, Tensor]:
    r"""The terms of DSIG, each a mean over images.

    .. math::
        L_f = \frac{1}{|f|}\sum_{i \in f} \overline{(s_i - t_i)^2}, \qquad
        L_b = \rho\,\frac{|f|}{|b|}\,\frac{1}{|b|}\sum_{i \in b} \overline{(s_i - t_i)^2}, \qquad
        L_e = \frac{1}{2 |e|^2}\sum_{i, j \in e} (\cos(s_i, s_j) - \cos(t_i, t_j))^2

    of each image, with f its foreground, b its background, :math:`e = f \cup h` where h is the hard background, and
    the bar a mean over features. A term without a node is zero. Chen et al., "Deep Structured Instance Graph for
    Distilling Object Detectors" (ICCV 2021). The reference sums over the images of a GPU; a mean over them, so that
    the batch size does not decide the weight, is this project's.

    Args:
        student (Tensor): (K, D), instances of any float type; computed in float32, or float64 if given.
        teacher (Tensor): (K, D); receives no gradient.
        image (Tensor): (K,) int, the image of each, below ``num_images``.
        foreground (Tensor): (K,) bool.
        hard (Tensor): (K,) bool, which of the background has edges.
        num_images (int): Images, with or without instances.
        terms (Sequence[str]): Which of ``foreground``, ``background`` and ``edge`` to compute.
        background_ratio (float): :math:`\rho`.

    Returns:
        dict[str, Tensor]: Term to scalar; zero with a gradient where there is no node.

    Raises:
        ValueError: Shapes differ, or a term is unknown.
    """
    if student.dim() != 2 or student.shape != teacher.shape:
        raise ValueError('student and teacher must be instances of one shape (K, D), got '
                         f'{tuple(student.shape)} and {tuple(teacher.shape)}')
    if isinstance(terms, str) or (set(terms) - set(TERMS)):
        raise ValueError(f'terms must be a sequence of {TERMS}, got {terms!r}')
    with float32_island(student):
        dtype = working_dtype(student)
        student, teacher = student.to(dtype), teacher.detach().to(dtype)
        of = image == torch.arange(num_images, device=image.device).unsqueeze(1)  # (N, K)
        losses = {}
        if 'foreground' in terms or 'background' in terms:
            error = F.mse_loss(student, teacher, reduction='none').mean(1)  # (K,)
            front, back = ((of & those).to(dtype) for those in (foreground, ~foreground))
            losses['foreground'] = _mean(error, front)
            losses['background'] = background_ratio * front.sum(1) / back.sum(1).clamp(min=1) * _mean(error, back)
        if 'edge' in terms:
            losses['edge'] = _edges(student, teacher, of & (foreground | hard))
        return {term: losses[term].sum() / max(num_images, 1) for term in terms}


def _mean(error: Tensor, of: Tensor) -> Tensor:
    """(N,) means of errors (K,) over those (N, K) of each image, zero for none."""
    return of @ error / of.sum(1).clamp(min=1)


def _edges(student: Tensor, teacher: Tensor, of: Tensor) -> Tensor:
    """(N,) halved differences of the graphs of the instances (N, K) of each image."""
    image, index = of.nonzero(as_tuple=True)  # the images in turn
    place = (of.cumsum(1) - 1)[image, index]  # its place in the graph of its image
    valid = torch.arange(int(of.sum(1).max()) if len(of) else 0, device=of.device) < of.sum(1, keepdim=True)  # (N, V)
    graphs = [similarity_graph(x.new_zeros(*valid.shape, x.shape[1]).index_put((image, place), x[index]), valid)
              for x in (student, teacher)]
    return match_edges(*graphs, node_pairs(valid), metric='mse') / 2
