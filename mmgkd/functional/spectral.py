"""Spectral embeddings of graphs, compared so that the arbitrary choices of an eigen-solver do not matter.

An eigenvector is defined only up to its sign, and those of a repeated eigenvalue only up to a rotation among
them, so eigenvectors are never compared one by one.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .graph import BEYOND
from .precision import float32_island

__all__ = ['GAP', 'eigh_or_nan', 'rayleigh_loss', 'smallest_eigenpairs', 'spectral_projector', 'subspace_loss']

GAP = 1e-4
"""Gaps between a kept and a dropped eigenvalue are blurred by it: 1 / gap becomes gap / (gap^2 + GAP^2), which no
gap takes above 1 / (2 GAP) and which is 0 for none."""


def smallest_eigenpairs(laplacian: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The ``r`` smallest eigenvalues (N, r) and their eigenvectors (N, V, r), without gradient.

    Eigenvectors above a Laplacian's spectrum, as :func:`nontrivial_laplacian` moves them, are zeroed together with
    their eigenvalues.

    Args:
        laplacian (Tensor): (N, V, V), symmetric.
        r (int): From 1 to V - 1.
    """
    _check_rank(laplacian, r)
    with torch.no_grad():
        values, vectors = (x[..., :r] for x in eigh_or_nan(laplacian))
        inside = values < (2 + BEYOND) / 2
        return values * inside, vectors * inside.unsqueeze(-2)


def rayleigh_loss(student: Tensor, values: Tensor, vectors: Tensor) -> Tensor:
    r""":math:`\|U_T^\top L_S U_T - \Lambda_T\|_F^2 / r`: the student's graph read in the teacher's embedding.

    It is linear in the student's Laplacian before the square and needs no eigen-solve of the student.

    Args:
        student (Tensor): (N, V, V), the student's Laplacian.
        values (Tensor): (N, r), the teacher's eigenvalues.
        vectors (Tensor): (N, V, r), the teacher's eigenvectors.

    Returns:
        Tensor: (N,).
    """
    residual = vectors.mT @ student @ vectors - torch.diag_embed(values)  # (N, r, r)
    return residual.square().sum((-2, -1)) / values.shape[-1]


def subspace_loss(student: Tensor, vectors: Tensor) -> Tensor:
    r""":math:`1 - \|U_T^\top U_S\|_F^2 / r`: the mean squared sine of the angles between the two embeddings.

    Args:
        student (Tensor): (N, V, V), the student's Laplacian, its trivial eigenvector moved away.
        vectors (Tensor): (N, V, r), the teacher's eigenvectors.

    Returns:
        Tensor: (N,), from 0 (the same subspace) to 1 (orthogonal).
    """
    r = vectors.shape[-1]
    overlap = vectors.mT @ spectral_projector(student, r) @ vectors  # (N, r, r)
    embedded = vectors.square().sum((-2, -1))  # r, or fewer where some are zeroed
    return (embedded - overlap.diagonal(dim1=-2, dim2=-1).sum(-1)) / r


def spectral_projector(laplacian: Tensor, r: int) -> Tensor:
    """The projector (N, V, V) onto the eigenvectors of the ``r`` smallest eigenvalues.

    Args:
        laplacian (Tensor): (N, V, V), symmetric; so is its gradient.
        r (int): From 1 to V - 1.
    """
    _check_rank(laplacian, r)
    return _Projector.apply(laplacian, r)


class _Projector(torch.autograd.Function):
    r"""The derivative of a projector, from first-order perturbation theory: with K the kept and D the dropped
    eigenvectors, :math:`dP = \sum_{i\in K, j\in D} \frac{u_i^\top dL\,u_j}{\lambda_i - \lambda_j}
    (u_i u_j^\top + u_j u_i^\top)`. Only the gap between kept and dropped enters. The derivative of ``eigh``
    holds :math:`1/(\lambda_i - \lambda_j)` within K too, which cancels in P but overflows first.
    """

    @staticmethod
    def forward(ctx, laplacian, r):
        values, vectors = eigh_or_nan(laplacian)
        ctx.save_for_backward(values, vectors)
        ctx.r = r
        kept = vectors[..., :r]
        return kept @ kept.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        values, vectors = ctx.saved_tensors
        index = torch.arange(values.shape[-1], device=values.device)
        kept = (index < ctx.r).to(values.dtype)
        gap = values.unsqueeze(-1) - values.unsqueeze(-2)  # (N, V, V), lambda_i - lambda_j
        inverse = gap / (gap.square() + GAP ** 2)
        # row kept, column dropped: 1 / gap; row dropped, column kept: -1 / gap; else nothing
        sign = kept.unsqueeze(-1) - kept.unsqueeze(-2)
        with float32_island(grad):
            inner = vectors.mT @ ((grad + grad.mT) / 2) @ vectors  # (N, V, V)
            return vectors @ (inner * inverse * sign) @ vectors.mT, None


def eigh_or_nan(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors; of a matrix that is not finite, nan, where ``eigh`` itself would raise: a loss
    scaler skips a step of nan, but no step survives an exception."""
    values, vectors = torch.linalg.eigh(matrix.nan_to_num(0, 0, 0))
    poison = (matrix * 0).sum((-2, -1))  # (N,), zero or nan
    return values + poison[..., None], vectors + poison[..., None, None]


def _check_rank(laplacian: Tensor, r: int) -> None:
    vertices = laplacian.shape[-1]
    if not 1 <= r < vertices:
        raise ValueError(f'the spectral embedding needs 1 <= r < {vertices} eigenvectors for a graph of {vertices} '
                         f'vertices, got num_eigenvectors={r}')
