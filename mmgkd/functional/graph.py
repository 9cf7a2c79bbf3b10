"""Weighted graphs as matrices: affinity, normalisation by degrees and Laplacian."""
from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_one_of

__all__ = ['AFFINITIES', 'BEYOND', 'affinity', 'correlation', 'nontrivial_laplacian', 'normalized_adjacency',
           'normalized_laplacian']

MIN_DEGREE = 1e-2
"""Degrees are clamped to it. Its inverse bounds the gradient at a vertex that loses its last edges."""
BEYOND = 3.
"""Added to eigenvalues that are not to be found among the smallest."""

AFFINITIES = {
    'relu': torch.relu,
    'abs': torch.abs,
    'shift': lambda a: (1 + a) / 2,
}


def correlation(gram: Tensor, alive: Tensor) -> Tensor:
    r""":math:`A_{ij} = G_{ij} / \sqrt{G_{ii} G_{jj}}`: cosines if the Gram matrix is not centred.

    Invariant to a positive factor on each channel: the C x C matrix is normalised, never the C x n map.

    Args:
        gram (Tensor): (N, C, C).
        alive (Tensor): (N, C) bool; rows and columns of the others are zero.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(alive, diagonal, 1).rsqrt() * alive  # (N, C)
    return gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)


def affinity(adjacency: Tensor, kind: str | None = 'relu', *, loops: bool = False) -> Tensor:
    """Non-negative weights, from signed ones in [-1, 1].

    Args:
        adjacency (Tensor): (N, V, V).
        kind (str, optional): ``relu``, ``abs`` or ``shift`` (``(1 + A) / 2``); ``None`` leaves signs.
        loops (bool): Keep the diagonal, otherwise zero.
    """
    check_one_of((*AFFINITIES, None), affinity=kind)
    weights = adjacency if kind is None else AFFINITIES[kind](adjacency)
    if loops:
        return weights
    return weights.masked_fill(torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device), 0)


def normalized_adjacency(weights: Tensor) -> Tensor:
    r""":math:`D^{-1/2} P D^{-1/2}`, of spectral radius 1, or less where all degrees are below ``MIN_DEGREE``.

    Args:
        weights (Tensor): (N, V, V), symmetric and non-negative.
    """
    scale = _degrees(weights).rsqrt()  # (N, V)
    return weights * scale.unsqueeze(-1) * scale.unsqueeze(-2)


def normalized_laplacian(weights: Tensor) -> Tensor:
    r""":math:`L = I - D^{-1/2} P D^{-1/2}`; an isolated vertex has the row of the identity.

    Args:
        weights (Tensor): (N, V, V), symmetric, non-negative, zero diagonal.
    """
    eye = torch.eye(weights.shape[-1], dtype=weights.dtype, device=weights.device)
    return eye - normalized_adjacency(weights)


def nontrivial_laplacian(weights: Tensor, vertices: Tensor | None = None) -> Tensor:
    r"""The normalised Laplacian with what is not to be embedded moved above its spectrum, which ends at 2.

    That is the trivial eigenvector :math:`D^{1/2} 1`, of eigenvalue 0, which tells only degrees. It is moved and not
    skipped by its place among the eigenvalues: in a graph of several components 0 repeats, and an eigen-solver
    returns any basis of that eigenspace.

    Args:
        weights (Tensor): (N, V, V), as :func:`normalized_laplacian` takes them.
        vertices (Tensor, optional): (N, V) bool; the others are moved away too.
    """
    degrees = weights.sum(-1)
    trivial = _degrees(weights).sqrt() * (degrees > 0)  # (N, V)
    trivial = trivial / torch.linalg.vector_norm(trivial, dim=-1, keepdim=True).clamp(min=MIN_DEGREE)
    moved = trivial.unsqueeze(-1) * trivial.unsqueeze(-2)
    if vertices is not None:
        moved = moved + torch.diag_embed((~vertices).to(weights.dtype))
    return normalized_laplacian(weights) + BEYOND * moved


def _degrees(weights: Tensor) -> Tensor:
    """(N, V), clamped."""
    return weights.sum(-1).clamp(min=MIN_DEGREE)
