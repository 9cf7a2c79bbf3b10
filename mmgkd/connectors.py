"""Connectors make the student's maps fit the teacher's, level by level."""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from torch import Tensor, nn

__all__ = ['NeckConnector']


@MODELS.register_module()
class NeckConnector(nn.Module):
    """Identity where channels agree, a learned 1x1 convolution where they do not, resizing on request.

    The distiller fills in both shapes; a config names only what it wants changed.

    Args:
        student_shapes (Sequence[tuple]): (C, H, W) of each level of the student's neck for a probe image.
        teacher_shapes (Sequence[tuple]): The same of the teacher's.
        student_levels (Sequence[int], optional): The student's levels to distil, all by default.
        teacher_levels (Sequence[int], optional): The teacher's levels that they are matched with.
        norm_cfg (dict, optional): A norm after each 1x1 convolution, such as ``dict(type='BN')``.
        resize (bool): Resize the student's map (bilinear) to the teacher's where sizes differ; without it,
            that is an error.
        same_shape (bool): False leaves the maps as they are and only chooses levels. The distiller says so when no
            loss compares maps cell by cell.

    Raises:
        ValueError: The levels do not match in number, or in size without ``resize``.
    """

    def __init__(self, *, student_shapes: Sequence[tuple[int, int, int]],
                 teacher_shapes: Sequence[tuple[int, int, int]], student_levels: Sequence[int] | None = None,
                 teacher_levels: Sequence[int] | None = None, norm_cfg: dict | None = None,
                 resize: bool = False, same_shape: bool = True) -> None:
        super().__init__()
        self.student_levels = _levels('student_levels', student_levels, student_shapes)
        self.teacher_levels = _levels('teacher_levels', teacher_levels, teacher_shapes)
        self.resize, self.same_shape = resize, same_shape
        student = [student_shapes[i] for i in self.student_levels]
        teacher = [teacher_shapes[i] for i in self.teacher_levels]
        sizes_differ = any(s[1:] != t[1:] for s, t in zip(student, teacher, strict=False))
        if len(student) != len(teacher) or (sizes_differ and same_shape and not resize):
            raise ValueError(
                f'the levels of the two necks do not match\n  student: {_describe(student)}\n'
                f'  teacher: {_describe(teacher)}\nChoose matching ones by connector=dict(student_levels=[...], '
                'teacher_levels=[...])' + (', or resize the student\'s by connector=dict(resize=True)'
                                           if len(student) == len(teacher) else ''))
        self.shapes = [t if same_shape else s for s, t in zip(student, teacher, strict=True)], teacher
        """(C, H, W) per level of the student's maps and of the teacher's that :meth:`forward` gives for the probe."""
        self.projections = nn.ModuleList(
            ConvModule(s[0], t[0], 1, norm_cfg=norm_cfg, act_cfg=None) if same_shape and s[0] != t[0] else nn.Identity()
            for s, t in zip(student, teacher, strict=True))

    def forward(self, student_feats: Sequence[Tensor],
                teacher_feats: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The chosen levels of both, each pair of one shape (N, C_t, H_t, W_t) if ``same_shape``."""
        teacher_feats = [teacher_feats[i] for i in self.teacher_levels]
        projected = []
        for level, project, teacher in zip(self.student_levels, self.projections, teacher_feats, strict=True):
            x = project(student_feats[level])
            if self.same_shape and x.shape[2:] != teacher.shape[2:]:
                if not self.resize:
                    raise ValueError(f'level {level} of the student is {tuple(x.shape)}, its teacher\'s '
                                     f'{tuple(teacher.shape)}: set connector=dict(resize=True)')
                x = F.interpolate(x, teacher.shape[2:], mode='bilinear', align_corners=False)
            projected.append(x)
        return projected, teacher_feats


def _levels(name: str, chosen: Sequence[int] | None, shapes: Sequence) -> list[int]:
    if not isinstance(chosen, (list, tuple, type(None))):
        raise ValueError(f'{name} must be a list of indices, got {chosen!r}')
    levels = list(range(len(shapes)) if chosen is None else chosen)
    if not levels or not all(isinstance(i, int) and 0 <= i < len(shapes) for i in levels):
        raise ValueError(f'{name} must be indices from 0 to {len(shapes) - 1} of {_describe(shapes)}, got {levels}')
    return levels


def _describe(shapes: Sequence[tuple]) -> str:
    return f'{len(shapes)} levels, ' + ', '.join('x'.join(map(str, s)) for s in shapes)
