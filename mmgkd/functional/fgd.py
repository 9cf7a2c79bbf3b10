"""FGD: focal and global distillation (Yang et al., CVPR 2022)."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .attention import channel_focus, spatial_focus
from .cells import kept_cells
from .checks import check_maps, check_temperature
from .precision import float32_island, working_dtype
from .sums import squared_distance

__all__ = ['BOXES', 'TERMS', 'box_mask', 'fgd_terms']

TERMS = ('foreground', 'background', 'attention', 'relation')
BOXES = 64
"""Boxes that are drawn at a time: a temporary stays (N, BOXES, H, W) however many there are."""


def box_mask(boxes: Sequence[Tensor], feat: Tensor, canvas: tuple[int, int]) -> Tensor:
    r"""The foreground of FGD: :math:`1 / (h_b w_b)` on the cells of box b, where boxes overlap that of the smallest.

    A box covers the cells from ``floor(x1)`` to ``ceil(x2)``, both included, of coordinates scaled to the map, and
    likewise in y; its height and width count cells, those beyond the map too. Source: FGD (Yang et al., CVPR 2022,
    equation 2), whose published code scales by the image without its padding, and so past the objects wherever there
    is padding.

    Args:
        boxes (Sequence[Tensor]): (K, 4) per image, x1, y1, x2, y2 in pixels of the padded batch.
        feat (Tensor): (N, C, H, W); gives shape, device and dtype.
        canvas (tuple): Height and width in pixels of what the map's cells cover: those of the padded batch, or a little
            more where they are no multiples of the stride.

    Returns:
        Tensor: (N, H, W), zero on the background, without gradient.

    Raises:
        ValueError: There are not N tensors of boxes.
    """
    n, _, h, w = feat.shape
    if len(boxes) != n:
        raise ValueError(f'boxes must be one tensor for each of the {n} images, got {len(boxes)}')
    mask = feat.new_zeros(n, h, w, dtype=working_dtype(feat))
    if not any(len(b) for b in boxes):
        return mask
    counts = torch.tensor([len(b) for b in boxes], device=feat.device)
    boxes = pad_sequence([b.detach().to(mask) for b in boxes], batch_first=True)  # (N, K, 4)
    scaled = boxes * mask.new_tensor([w, h, w, h]) / mask.new_tensor(canvas).flip(0).repeat(2)
    low, high = scaled[..., :2].floor(), scaled[..., 2:].ceil()  # (N, K, 2) cells
    density = 1 / (high + 1 - low).clamp(min=1).prod(-1)  # (N, K)
    density = density * (torch.arange(boxes.shape[1], device=feat.device) < counts.unsqueeze(1))
    columns, rows = (_within(low[..., i, None], high[..., i, None], size) for i, size in enumerate((w, h)))
    for drawn in zip(density.split(BOXES, 1), rows.split(BOXES, 1), columns.split(BOXES, 1), strict=True):
        value, row, column = drawn  # (N, k), (N, k, H), (N, k, W)
        covered = row.unsqueeze(-1) & column.unsqueeze(-2)  # (N, k, H, W)
        mask = torch.maximum(mask, (covered * value[..., None, None]).amax(1))
    return mask


def fgd_terms(student: Tensor, teacher: Tensor, foreground: Tensor, valid: Tensor | None = None, *,
              shift: Tensor | None = None, terms: Sequence[str] = TERMS, temperature: float = 0.5) -> dict[str, Tensor]:
    r"""The terms of FGD at one level, each a mean over images.

    .. math::
        L_{fore} &= \sum_{c,p} M_p\, a_p(T)\, a_c(T)\, (S_{cp} - T_{cp})^2 \\
        L_{back} &= \sum_{c,p} \bar M_p\, a_p(T)\, a_c(T)\, (S_{cp} - T_{cp})^2 \\
        L_{attention} &= \sum_c |a_c(S) - a_c(T)| + \sum_p |a_p(S) - a_p(T)| \\
        L_{relation} &= \sum_{c,p} (S_{cp} + g_c(S) - T_{cp} - g'_c(T))^2

    with the attentions :func:`spatial_focus` and :func:`channel_focus`, the foreground M of :func:`box_mask`,
    :math:`\bar M` equal on all cells where M is zero, its sum one, and what two learned global context blocks add to
    each channel. Source: FGD (Yang et al., CVPR 2022, equations 6 to 11). The mean is over images alone: terms are sums
    over channels and cells. Leaving padding out, of the background too, is this project's.

    Args:
        student (Tensor): (N, C, H, W), any float type; computed in float32, or float64 if given.
        teacher (Tensor): (N, C, H, W), of the same shape; receives no gradient.
        foreground (Tensor): (N, H, W), non-negative.
        valid (Tensor, optional): (N, H, W) bool, False on padding.
        shift (Tensor, optional): (N, C), :math:`g(S) - g'(T)`; zero by default.
        terms (Sequence[str]): Which of the terms to compute.
        temperature (float): Of the attentions.

    Returns:
        dict[str, Tensor]: Term to scalar; zero with a gradient for an empty batch.

    Raises:
        ValueError: Shapes differ, the temperature is not above 0, or there is no such term.
    """
    check_maps(student, teacher, valid)
    check_temperature(temperature)
    if unknown := sorted(set(terms) - set(TERMS)):
        raise ValueError(f'terms must be of {TERMS}, got {unknown}')
    if foreground.shape != (len(student), *student.shape[2:]):
        raise ValueError(f'foreground must be (N, H, W) = {(len(student), *student.shape[2:])}, '
                         f'got {tuple(foreground.shape)}')
    teacher, images = teacher.detach(), max(len(student), 1)
    with float32_island(student):
        keep = kept_cells(teacher, valid)  # (N, HW)
        space, channel = (focus(teacher, valid, temperature=temperature) for focus in (spatial_focus, channel_focus))
        masks = {'foreground': foreground.flatten(1).to(keep.dtype)}
        background = keep * (masks['foreground'] == 0)
        masks['background'] = background / background.sum(-1, keepdim=True).clamp(min=1)
        losses = {}
        for term in terms:
            if term in masks:
                value = channel * squared_distance(student, teacher, masks[term] * space)  # (N, C)
            elif term == 'attention':
                value = (channel_focus(student, valid, temperature=temperature) - channel).abs().sum() \
                    + (spatial_focus(student, valid, temperature=temperature) - space).abs().sum()
            else:
                value = squared_distance(student, teacher, keep, shift)  # (N, C)
            losses[term] = value.sum() / images
        return losses


def _within(low: Tensor, high: Tensor, size: int) -> Tensor:
    """(N, K, size) bool, the cells from ``low`` to ``high`` (N, K, 1)."""
    cell = torch.arange(size, device=low.device)
    return (cell >= low) & (cell <= high)
