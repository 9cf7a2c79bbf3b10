"""Boxes of objects: which of a detector's are right, and how they are drawn on their image."""
from __future__ import annotations

import pickle
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

RIGHT, WRONG, TRUTH = '#00E08A', '#FF4B3E', '#FFFFFF'
MIN_SCORE, MIN_IOU = .3, .5


class Boxes(NamedTuple):
    """Boxes (N, 4) as corners x1, y1, x2, y2 in pixels, their labels (N,) and scores (N,)."""
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def read_predictions(path: str) -> dict[int, Boxes]:
    """What ``tools/test.py --out`` wrote, by image."""
    with open(path, 'rb') as file:
        samples = pickle.load(file)  # our own file
    keys = ('bboxes', 'labels', 'scores')
    return {sample['img_id']: Boxes(*(sample['pred_instances'][key].numpy() for key in keys))
            for sample in samples}


def iou(one: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Intersection over union (N,) of a box (4,) with boxes (N, 4)."""
    sides = np.minimum(one[2:], many[:, 2:]) - np.maximum(one[:2], many[:, :2])  # (N, 2)
    both = sides.clip(0).prod(axis=1)
    return both / ((one[2:] - one[:2]).prod() + (many[:, 2:] - many[:, :2]).prod(axis=1) - both)


def shown(found: Boxes) -> Boxes:
    """What is sure enough to be shown, the surest first."""
    order = np.argsort(-found.scores, kind='stable')
    order = order[found.scores[order] >= MIN_SCORE]
    return Boxes(*(values[order] for values in found))


def hits(found: Boxes, truth: Boxes) -> list[bool]:
    """Whether each box, the surest first, is an object of the truth that no surer one has taken."""
    free = np.ones(len(truth.labels), bool)
    answers = []
    for box, label in zip(found.boxes, found.labels, strict=True):
        overlaps = np.where(free & (truth.labels == label), iou(box, truth.boxes), 0)
        best = int(overlaps.argmax()) if len(overlaps) else -1
        answers.append(best >= 0 and overlaps[best] >= MIN_IOU)
        if answers[-1]:
            free[best] = False
    return answers


def draw_boxes(axes: Axes, boxes: Boxes, colours: list[str]) -> None:
    """Frames with their labels; wrong ones are dashed too, for those who do not see their red."""
    bounds = []
    for box, label, colour in zip(boxes.boxes, boxes.labels, colours, strict=True):
        (x1, y1, x2, y2), style = box, (0, (2.5, 1.2)) if colour == WRONG else '-'
        for width, edge in ((3.2, '#00000090'), (1.7, colour)):
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=width, edgecolor=edge,
                                     linestyle=style if edge == colour else '-'))
        tag = tag_place(box, bounds, axes.get_ylim()[0])
        bounds.append(tag)
        axes.text(*tag, str(label), ha='left', va='bottom', fontsize=9, fontweight='bold', color='black',
                  bbox=dict(boxstyle='square,pad=0.12', facecolor=colour, edgecolor='none'))


def tag_place(box: np.ndarray, taken: list[tuple[float, float]], height: float) -> tuple[float, float]:
    """Where a box's tag goes: above the box, or below it, or beside, wherever no other tag is."""
    x1, y1, x2, y2 = box
    places = [(x1, y1 - 2), (x2 - 9, y1 - 2), (x1, y2 + 14), (x2 - 9, y2 + 14), (x2 + 2, y1 + 12)]
    places = [place for place in places if 14 <= place[1] <= height - 1] or [(x1, y1 + 14)]
    return next((place for place in places
                 if all(abs(place[0] - x) > 9 or abs(place[1] - y) > 13 for x, y in taken)), places[0])
