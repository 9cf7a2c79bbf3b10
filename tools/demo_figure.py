"""The demo's figure: learning curves beside examples of what each detector finds."""
from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from boxes import MIN_IOU, MIN_SCORE, RIGHT, TRUTH, WRONG, Boxes, draw_boxes, hits, shown
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from plots import INK, apart, by_epoch, plt

COLOURS = dict(teacher='#595959', student='#D55E00', gkd='#0072B2')  # told apart with any colour vision


@dataclass
class Example:
    """An image, what is on it and what each detector finds."""
    image: Path
    truth: Boxes
    found: dict[str, Boxes]


def draw_examples(place, examples: list[Example], names: dict[str, str]) -> None:
    """A row for each image, a column for the truth and each detector.

    Args:
        place (Callable): Makes the axes of row i and column j.
        examples (list[Example]): The rows.
        names (dict[str, str]): The detectors, by kind.
    """
    for i, example in enumerate(examples):
        image = plt.imread(example.image)
        for j, kind in enumerate([None, *names]):
            axes = place(i, j)
            axes.imshow(image, interpolation='lanczos')
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if i == 0:
                axes.set_title(names.get(kind, 'ground truth'), fontsize=13, fontweight='bold', pad=7,
                               color=COLOURS.get(kind, INK))
            draw_example(axes, example, kind)


def draw_example(axes: Axes, example: Example, kind: str | None) -> None:
    """The boxes of the truth, or what a detector finds, and how many of them are right."""
    total = len(example.truth.labels)
    if kind is None:
        draw_boxes(axes, example.truth, [TRUTH] * total)
        caption = f'{total} digits'
    else:
        found = shown(example.found[kind])
        right = hits(found, example.truth)
        draw_boxes(axes, found, [RIGHT if hit else WRONG for hit in right])
        caption = f'{sum(right)} of {total} found, {len(right) - sum(right)} wrong'
    axes.set_xlabel(caption, fontsize=11, color=INK, labelpad=4)


def mean_curve(curves: list[dict[int, float]]) -> dict[int, float]:
    """The mean at the epochs that all curves have."""
    return {epoch: statistics.fmean(curve[epoch] for curve in curves) for epoch in curves[0]
            if all(epoch in curve for curve in curves)}


def draw_curves(axes: Axes, detectors: dict[str, dict]) -> None:
    """mAP by epoch: each seed thin, their mean bold and named at its end."""
    ends = {}
    for kind, row in detectors.items():
        curves = [by_epoch(curve) for curve in row['curves']]
        for curve in curves if len(curves) > 1 else ():
            axes.plot(curve.keys(), curve.values(), color=COLOURS[kind], linewidth=1, alpha=.45)
        mean = mean_curve(curves)
        axes.plot(mean.keys(), mean.values(), color=COLOURS[kind], linewidth=2.8, marker='o', markersize=4.5,
                  clip_on=False, zorder=3)
        ends |= {kind: list(mean.items())[-1]} if mean else {}
    last = max((epoch for epoch, _ in ends.values()), default=1)
    axes.set(xlim=(min(1, last - 1), last), ylim=(0, max(1., axes.get_ylim()[1])))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.tick_params(labelsize=11, colors=INK)
    axes.set_xlabel('epoch', fontsize=12, color=INK)
    axes.set_title('mAP on the validation images, %', loc='left', fontsize=13, fontweight='bold', color=INK,
                   pad=10)
    axes.spines[['top', 'right']].set_visible(False)
    axes.grid(axis='y', color='#DDDDDD', linewidth=.8)
    name_ends(axes, detectors, ends)


def name_ends(axes: Axes, detectors: dict[str, dict], ends: dict[str, tuple[int, float]]) -> None:
    """Names at the curves' ends, moved apart where they would overlap."""
    order = sorted(ends, key=lambda kind: ends[kind][1])
    places = apart([ends[kind][1] for kind in order], .06 * axes.get_ylim()[1])
    for kind, place in zip(order, places, strict=True):
        axes.annotate(detectors[kind]['name'], ends[kind], xytext=(1.03, place), va='center', fontsize=12,
                      textcoords=('axes fraction', 'data'), fontweight='bold', color=COLOURS[kind],
                      annotation_clip=False)


def draw_table(axes: Axes, columns: tuple[str, ...], rows: dict[str, tuple[str, ...]]) -> None:
    """The results, a line for each detector in its curve's colour."""
    axes.axis('off')
    places = (0, .43, .61, .81, 1.)
    for i, (kind, cells) in enumerate([(None, columns), *rows.items()]):
        height = 1 - (i + .5) / (len(rows) + 1)
        for place, cell in zip(places, cells, strict=True):
            axes.text(place, height, cell, ha='right' if place else 'left', va='center', fontsize=11.5,
                      fontweight='bold' if kind and not place else 'normal', color=COLOURS.get(kind, INK))
        if kind is None:
            axes.axhline(1 - 1 / (len(rows) + 1), color='#BBBBBB', linewidth=.8)


def draw(results: dict, columns: tuple[str, ...], rows: dict[str, tuple[str, ...]], examples: list[Example],
         path: Path) -> None:
    """Write the figure as a PNG: curves and table left, examples right; all places are in inches."""
    detectors, seeds = results['detectors'], results['seeds']
    names = {kind: row['name'] for kind, row in detectors.items()}
    count, side, gap, line, foot, left = max(2, len(examples)), 2.2, .1, .4, .5, 6.35
    width, height = left + 4 * side + 3 * gap + .15, foot + count * (side + line) + .45
    figure = plt.figure(figsize=(width, height), facecolor='white')

    def place(x: float, y: float, w: float, h: float) -> Axes:
        return figure.add_axes((x / width, y / height, w / width, h / height))

    table = 1.5
    draw_curves(place(.5, foot + table + 1.05, 4.1, height - foot - table - 1.5), detectors)
    draw_table(place(.1, foot + .25, left - .5, table), columns, rows)
    draw_examples(lambda i, j: place(left + j * (side + gap), foot + line + (count - 1 - i) * (side + line),
                                     side, side), examples, names)
    which = f'Seed {seeds[0]}.' if len(seeds) == 1 else f'{len(seeds)} seeds: thin lines; bold, their mean.'
    figure.text(.1 / width, .17 / height, f'{which} mAP and AP50 in %.', fontsize=11, color=INK)
    figure.text(left / width, .17 / height, f'Score of at least {MIN_SCORE}, seed {seeds[0]}. '
                f'Green: the right digit, IoU of at least {MIN_IOU}. Red, dashed: anything else.',
                fontsize=11, color=INK)
    figure.savefig(path, dpi=120)
    plt.close(figure)
