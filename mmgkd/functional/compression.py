r"""A node that is a matrix, its cells by channels, compressed to one unit vector of its channels.

By its singular vectors in "Graph-based Knowledge Distillation by Multi-head Attention Network" (Lee and Song, BMVC
2019), after "Self-supervised Knowledge Distillation Using Singular Value Decomposition" (Lee et al., ECCV 2018). A
singular vector is defined up to its sign only, and among equal singular values up to a rotation, so the teacher's has
a sign of its own choosing, and the student's is the one of its first few that fits the teacher's best.
"""
from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .contrast import unit_rows
from .precision import float32_island, working_dtype
from .spectral import GAP, eigh_or_nan

__all__ = ['aligned_vectors', 'mean_vectors', 'principal_vectors']

EXACT = 32
"""Gram matrices up to this size are decomposed as a whole, which GPUs do for many at once: they take larger ones one
by one, a hundred times slower. Of those only the leading eigenvectors are found, by subspace iteration."""
BLOCK = 16
"""Vectors that are iterated for."""
ITERATIONS = 24
NOISE = 1000
"""Squared singular values below so many roundings of their sum have no vector: it would be off by 1e-3 or more."""
SHIFT = 1e-12
"""Added to what is decomposed by Cholesky, relative to its trace."""


def mean_vectors(x: Tensor) -> Tensor:
    """The mean over cells, of unit length; zero where that is zero.

    Args:
        x (Tensor): (V, P, C).

    Returns:
        Tensor: (V, C).
    """
    with float32_island(x):
        return unit_rows(x.to(working_dtype(x)).mean(-2))


def principal_vectors(x: Tensor) -> Tensor:
    r"""The right singular vector :math:`v_1` of the largest singular value of each :math:`X = U \Sigma V^\top`.

    Its sign is such that its inner products with the cells sum to at least 0. That is this project's: published, it is
    the solver's. For features that are not negative it is the vector without negative entries.

    Args:
        x (Tensor): (V, P, C).

    Returns:
        Tensor: (V, C), unit vectors, without gradient; zero for a matrix of zeros.
    """
    with torch.no_grad(), float32_island(x):
        x = x.to(working_dtype(x))
        vectors = _right_singular(x, *_gram(x), 1)[1].squeeze(-1)  # (V, C)
        return vectors * _sign((x.sum(-2) * vectors).sum(-1, keepdim=True))


def aligned_vectors(student: Tensor, teacher: Tensor, *, candidates: int = 4) -> Tensor:
    r"""The student's singular vector that fits the teacher's, with the sign that fits.

    .. math:: \mathrm{sign}(\langle v_k, t\rangle)\,v_k, \qquad k = \arg\max_{k \le K} |\langle v_k, t\rangle|

    over the right singular vectors of the :math:`K` largest singular values; ``k`` and the sign without gradient.
    Singular vectors of what is zero but for rounding are no candidates. The gradient is that of the singular vector;
    gaps between squared singular values are blurred, relative to their sum, as in :mod:`mmgkd.functional.spectral`,
    so it is finite where they repeat.

    Args:
        student (Tensor): (V, P, C).
        teacher (Tensor): (V, C), :func:`principal_vectors` of the teacher; no gradient.
        candidates (int): :math:`K`.

    Returns:
        Tensor: (V, C), unit vectors; zero, with a gradient of zero, for a matrix of zeros.
    """
    with float32_island(student):
        x = student.to(working_dtype(student))
        return _Aligned.apply(x, teacher.detach().to(x), candidates)


class _Aligned(torch.autograd.Function):
    r"""The derivative of an eigenvector of :math:`G = X^\top X`, :math:`dv = (\lambda - G)^+ dG\,v`: with
    :math:`w = (\lambda - G)^+ g` for a gradient g, that of X is :math:`X v w^\top + X w v^\top`. Where there are
    fewer cells than channels, the same in terms of the smaller :math:`K = X X^\top`:
    :math:`\lambda w = g_\perp + X^\top (\lambda - K)^+ X g`. Blurred, the pseudo-inverse is the real part of
    :math:`(\lambda - G + i \epsilon)^{-1}`, so one linear system is solved and no decomposition kept.
    """

    @staticmethod
    def forward(ctx, x, teacher, candidates):
        gram, size = _gram(x)
        values, vectors = _right_singular(x, gram, size, candidates)  # (V, r), (V, C, r)
        cosines = (teacher.unsqueeze(-1) * vectors).sum(-2)  # (V, r)
        best = cosines.abs().masked_fill(values == 0, -1).argmax(-1, keepdim=True)  # (V, 1)
        vector = vectors.gather(-1, best.unsqueeze(-2).expand(-1, vectors.shape[1], -1)).squeeze(-1)  # (V, C)
        vector = vector * _sign(cosines.gather(-1, best))
        ctx.save_for_backward(x, gram, size, values.gather(-1, best), vector)
        return vector

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, gram, size, value, vector = ctx.saved_tensors  # (V, P, C), (V, M, M), (V, 1), (V, 1), (V, C)

        def apart(g):
            return g - vector * (g * vector).sum(-1, keepdim=True)

        with float32_island(x):
            alive = value > 0  # (V, 1)
            scale = torch.where(alive, size, 1).rsqrt() * alive  # (V, 1), makes the squares of X sum to 1
            value = torch.where(alive, value, 1)
            shifted = torch.diag_embed((value + 1j * GAP).expand(gram.shape[:2])) - gram
            g = apart(grad)
            rows = gram.shape[-1] < x.shape[2]
            side = (x @ g.unsqueeze(-1)).squeeze(-1) * scale if rows else g  # (V, M)
            w = torch.linalg.solve_ex(shifted, side.to(shifted).unsqueeze(-1))[0].real.to(x.dtype)  # (V, M, 1)
            if rows:
                w = (g + (x.mT @ w).squeeze(-1) * scale) / value.to(x.dtype)
            w = apart(w.reshape(g.shape)) * scale.square()  # (V, C)
            both = torch.stack([vector, w], -1)  # (V, C, 2)
            return x @ both @ both.flip(-1).mT, None, None


def _gram(x: Tensor) -> tuple[Tensor, Tensor]:
    """(V, M, M) products of cells or of channels, whichever are fewer, of trace 1, and their trace (V, 1)."""
    gram = x @ x.mT if x.shape[1] < x.shape[2] else x.mT @ x
    size = gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)  # (V, 1)
    size = size * (size > 1e-30)
    return gram.double() / torch.where(size == 0, 1, size).unsqueeze(-1), size


def _right_singular(x: Tensor, gram: Tensor, size: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The ``r`` leading squared singular values (V, r) in float64, relative to their sum, and vectors (V, C, r); both
    0 for those that are rounding."""
    values, vectors = _leading_eigenpairs(gram, r)
    vectors = vectors.to(x.dtype)
    if gram.shape[-1] < x.shape[2]:
        vectors = x.mT @ vectors  # (V, C, r)
    alive = (values > NOISE * torch.finfo(x.dtype).eps) & (size > 0)
    return torch.where(alive, values, values * 0), unit_rows(vectors.mT).mT * alive.unsqueeze(-2)


def _leading_eigenpairs(gram: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """(V, r) eigenvalues, the largest first, and (V, M, r) eigenvectors, fewer where there are no more."""
    m = gram.shape[-1]
    if m <= EXACT:
        values, vectors = eigh_or_nan(gram)
    else:
        start = torch.randn(m, BLOCK, generator=torch.Generator().manual_seed(0), dtype=gram.dtype).to(gram.device)
        basis = _orthonormal(start)  # (M, BLOCK)
        for _ in range(ITERATIONS):
            basis = _orthonormal(gram @ basis)
        values, turn = eigh_or_nan(basis.mT @ gram @ basis)
        vectors = basis @ turn
    return values.flip(-1)[..., :r], vectors.flip(-1)[..., :r]


def _orthonormal(x: Tensor) -> Tensor:
    """(V, M, BLOCK), by Cholesky; shifted, so that columns may depend on each other, which are then next to zero."""
    product = x.mT @ x
    shift = SHIFT * product.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)  # (V, 1)
    eye = torch.eye(product.shape[-1], dtype=x.dtype, device=x.device)
    factor = torch.linalg.cholesky_ex(product + shift.clamp(min=torch.finfo(x.dtype).tiny).unsqueeze(-1) * eye)[0]
    return torch.linalg.solve_triangular(factor.mT, x, upper=True, left=False)


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1., 1.).to(x)
