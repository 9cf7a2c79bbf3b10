"""ICKD: the correlations between the channels of a map (Liu et al., ICCV 2021)."""
from __future__ import annotations

from torch import Tensor

from .attention import uniform_weight
from .checks import check_maps
from .edges import match_edges, normalize_edges
from .moments import moments
from .precision import float32_island

__all__ = ['ickd_loss']


def ickd_loss(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Squared distance of two inter-channel correlation matrices whose rows have unit length, a mean over images.

    .. math:: \frac{1}{N C} \sum_i \|R(S_i) - R(T_i)\|_F^2, \qquad
        R(F)_{ab} = \frac{G_{ab}}{\sqrt{\sum_k G_{ak}^2}}, \qquad G = F F^\top

    Source: ICKD (Liu et al., ICCV 2021). It does not change under a positive factor on either map, nor when the
    channels of both are permuted alike, nor when the cells of either are: the two maps are never compared cell by
    cell. Leaving padding out is this project's, and so is that a channel of the student without any activation, whose
    row has no direction, gets no gradient through that row.

    Args:
        student (Tensor): (N, C, H, W), any float type; computed in float32, or float64 if given.
        teacher (Tensor): (N, C, H, W), of the same shape; receives no gradient.
        valid (Tensor, optional): (N, H, W) bool, False on padding.

    Returns:
        Tensor: A scalar, from 0 to 4; zero with a gradient for an empty batch.

    Raises:
        ValueError: Shapes differ.
    """
    check_maps(student, teacher, valid)
    with float32_island(student):
        m = moments(student, teacher.detach(), uniform_weight(teacher, valid), centered=False)
        graphs = [normalize_edges(gram * alive.unsqueeze(-1), 'row')  # (N, C, C)
                  for gram, alive in ((m.student, m.student_alive), (m.teacher, m.teacher_alive))]
        value = match_edges(*graphs)  # (N,)
        return value.sum() / max(value.numel() * student.shape[1], 1)
