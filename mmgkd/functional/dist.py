"""DIST: how a student's predictions correlate with a teacher's, over the classes of a row and the rows of a class."""
from __future__ import annotations

import torch
from torch import Tensor

from .logits import check_logits, probabilities
from .precision import float32_island

__all__ = ['dist_terms']

EPS = 1e-8


def dist_terms(student: Tensor, teacher: Tensor, *, temperature: float = 1.,
               activation: str = 'softmax') -> dict[str, Tensor]:
    r"""Relations between and within classes.

    .. math:: L_{inter} = \tau^2\Big(1 - \frac1M\sum_i \rho(p^S_{i\cdot}, p^T_{i\cdot})\Big), \qquad
        L_{intra} = \tau^2\Big(1 - \frac1K\sum_c \rho(p^S_{\cdot c}, p^T_{\cdot c})\Big)

    with Pearson's :math:`\rho` of probabilities at temperature :math:`\tau`. Huang et al., "Knowledge Distillation
    from A Stronger Teacher" (NeurIPS 2022). With ``sigmoid`` the probabilities are those of each class alone, which
    is this project's reading for detectors.

    Zero when the logits are equal (but for the 1e-8 that guards the division); does not change when the rows, or the
    classes, of both are permuted alike. Rows or columns that are constant correlate with nothing.

    Args:
        student (Tensor): (M, K) logits, any float type; computed in float32, or float64 if given.
        teacher (Tensor): (M, K); receives no gradient.
        temperature (float): :math:`\tau`.
        activation (str): ``softmax`` or ``sigmoid``.

    Returns:
        dict[str, Tensor]: ``inter`` and ``intra``, scalars; zero with a gradient where there are fewer than two
            classes (or no row), or fewer than two rows.

    Raises:
        ValueError: Shapes differ, or an option is out of range.
    """
    check_logits(student, teacher, temperature, activation)
    with float32_island(student):
        p, q = (probabilities(x, temperature, activation) for x in (student, teacher.detach()))
        rows, classes = p.shape
        inter = 1 - _pearson(p, q).mean() if rows and classes > 1 else (p * 0).sum()
        intra = 1 - _pearson(p.mT, q.mT).mean() if rows > 1 else (p * 0).sum()
        return {'inter': temperature ** 2 * inter, 'intra': temperature ** 2 * intra}


def _pearson(x: Tensor, y: Tensor) -> Tensor:
    """(A,) correlations of the rows of (A, B)."""
    x, y = (v - v.mean(1, keepdim=True) for v in (x, y))
    lengths = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
    return (x * y).sum(1) / (lengths + EPS)
