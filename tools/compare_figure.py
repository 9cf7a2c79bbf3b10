"""The comparison's figure: learning curves with their spread over seeds, and what each student gained at what cost."""
from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from plots import INK, apart, by_epoch, plt

FIXED = {'teacher': '#595959', 'alone': '#D55E00', 'inherit': '#CC79A7', 'gkd': '#0072B2'}
REFERENCES = ('alone', 'inherit')  # longer, say: what the rest has to beat
OTHERS = ('#009E73', '#E69F00', '#56B4E9', '#882255', '#999933', '#44AA99', '#332288', '#AA4499', '#661100', '#117733')
OTHERWISE = '#8C8C8C'  # of a row whose curve is not drawn
NAMED = 8  # curves that fit beside each other with their names
WIDE = 30  # characters of a name on one line
ROW = .32  # of a bar, in inches


def colours(names: Sequence[str]) -> dict[str, str]:
    """One colour a row; beyond ten they come again, but not the references'."""
    others = [name for name in names if name not in FIXED]
    return {name: FIXED.get(name) or OTHERS[others.index(name) % len(OTHERS)] for name in names}


def band(curves: Sequence[dict]) -> dict[int, tuple[float, float]]:
    """Mean and standard deviation at the epochs that all curves have."""
    curves = [by_epoch(curve) for curve in curves]
    found = {}
    for epoch in curves[0]:
        values = [curve[epoch] for curve in curves if epoch in curve]
        if len(values) == len(curves):
            found[epoch] = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.
    return found


def with_curves(rows: Sequence[dict]) -> list[dict]:
    """The rows whose curves are drawn: all, or the references, GKD, the best variant of a reference and of the rest."""
    kept = [row for row in rows if row['name'] in FIXED]
    others = sorted((row for row in rows if row not in kept), key=lambda row: -statistics.fmean(row['scores']))
    longer = [row for row in others if row['name'].partition(':')[0] in REFERENCES][:1]
    return (kept + longer + [row for row in others if row not in longer])[:max(NAMED, len(kept))]


def colouring(rows: Sequence[dict]) -> dict[str, str]:
    """A colour of its own for each row with a curve, the same in all parts of a figure, and grey for the rest."""
    return {row['name']: OTHERWISE for row in rows} | colours([row['name'] for row in with_curves(rows)])


def draw_curves(axes: Axes, rows: Sequence[dict], metric: str, colour: dict[str, str]) -> None:
    """The mean by epoch with one standard deviation to each side, named at its end."""
    ends = {}
    for row in with_curves(rows):
        line = band(row['curves'])
        if not line:
            continue
        epochs, (means, widths) = list(line), zip(*line.values(), strict=True)
        lead = row['name'] in FIXED
        axes.fill_between(epochs, [m - w for m, w in zip(means, widths, strict=True)],
                          [m + w for m, w in zip(means, widths, strict=True)],
                          color=colour[row['name']], alpha=.15, linewidth=0)
        axes.plot(epochs, means, color=colour[row['name']], linewidth=2.4 if lead else 1.4,
                  linestyle='--' if row['name'] == 'teacher' else '-', marker='o' if len(epochs) == 1 else None)
        ends[row['name']] = epochs[-1], means[-1]
    axes.set_xlim(left=min(1, max((x for x, _ in ends.values()), default=1) - 1))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel('epoch', color=INK)
    axes.set_title(f'{metric} on the validation images, %', loc='left', fontweight='bold', color=INK)
    write_names(axes, ends, colour)


def write_names(axes: Axes, ends: dict[str, tuple[float, float]], colour: dict[str, str]) -> None:
    """Names beside the axes, as near in height to their points as they fit, with lines to them."""
    order = sorted(ends, key=lambda name: ends[name][1])
    low, high = axes.get_ylim()
    line = dict(arrowstyle='-', linewidth=.6, shrinkA=0, shrinkB=3)
    inch = (high - low) * axes.figure.dpi / axes.bbox.height
    places = apart([ends[name][1] for name in order], .26 * inch, low, high)
    for name, place in zip(order, places, strict=True):
        axes.annotate(wrapped(name), ends[name], xytext=(1.02, place), textcoords=('axes fraction', 'data'),
                      va='center', fontweight='bold', fontsize=size(name), color=colour[name], annotation_clip=False,
                      arrowprops=line | dict(color=colour[name]))


def wrapped(name: str) -> str:
    """A name on several lines if it is long, broken at its colons."""
    lines = ['']
    for part in name.replace(':', ':\n').split('\n'):
        if lines[-1] and len(lines[-1] + part) > WIDE:
            lines.append('')
        lines[-1] += part
    return '\n'.join(lines)


def size(name: str) -> float:
    """Of a name's font, in points, so that its lines fit between the rows above and below."""
    lines = wrapped(name).count('\n') + 1
    return 10. if lines == 1 else min(7., .8 * 72 * ROW / lines)


def costs(row: dict) -> bool:
    """Whether it is known what a student's training cost."""
    return row['name'].partition(' ')[0] != 'teacher' and math.isfinite(row['cost'] or math.nan)


def draw_cost(axes: Axes, rows: Sequence[dict], metric: str, colour: dict[str, str]) -> None:
    """What each student reached against the time of its training; a dashed line where its teacher is."""
    points = {row['name']: (row['cost'], statistics.fmean(row['scores'])) for row in rows if costs(row)}
    for name, point in points.items():
        axes.plot(*point, 'o', color=colour[name], markersize=8 if name in FIXED else 6)
    for row in rows:
        if row['name'] == 'teacher':
            axes.axhline(statistics.fmean(row['scores']), color=colour['teacher'], linestyle='--', linewidth=1.4)
    axes.set_xlabel('time of the training (student alone: 1)', color=INK)
    axes.set_title(f'{metric} against cost, %', loc='left', fontweight='bold', color=INK)
    named = [row['name'] for row in with_curves(rows)]
    write_names(axes, {name: point for name, point in points.items() if name in named}, colour)


def draw_bars(axes: Axes, rows: Sequence[dict], metric: str, colour: dict[str, str]) -> None:
    """The last epoch's mean of each row, its standard deviation and every seed's value, the best on top."""
    rows = sorted(rows, key=lambda row: statistics.fmean(row['scores']))
    for i, row in enumerate(rows):
        scores = row['scores']
        mean, width = statistics.fmean(scores), statistics.stdev(scores) if len(scores) > 1 else 0
        axes.barh(i, mean, color=colour[row['name']], alpha=.8, height=.7)
        if width:
            axes.errorbar(mean, i, xerr=width, color=INK, capsize=3, linewidth=1.2)
        axes.plot(scores, [i] * len(scores), '.', color='black', markersize=4)
        short = mean < .13 * statistics.fmean(rows[-1]['scores'])
        axes.text(max(scores) if short else 0, i, f' {mean:.1f}', va='center',
                  color=INK if short else 'white', fontweight='bold')
    axes.set(yticks=range(len(rows)), yticklabels=[wrapped(row['name']) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontsize(size(row['name']))
    axes.set_title(f'{metric} at the last epoch, %', loc='left', fontweight='bold', color=INK)


def draw(rows: Sequence[dict], metric: str, path: Path) -> None:
    """Write the figure as a PNG."""
    colour = colouring(rows)
    timed = any(costs(row) for row in rows if row['name'] != 'alone')
    figure, places = plt.subplot_mosaic(
        'cb;tb' if timed else 'cb', figsize=(14, max(8. if timed else 4.5, ROW * len(rows) + 1.5)), facecolor='white')
    draw_curves(places['c'], rows, metric, colour)
    if timed:
        draw_cost(places['t'], rows, metric, colour)
    draw_bars(places['b'], rows, metric, colour)
    for axes in places.values():
        axes.spines[['top', 'right']].set_visible(False)
        axes.tick_params(colors=INK)
    for place in places.keys() - {'b'}:
        places[place].grid(axis='y', color='#DDDDDD', linewidth=.8)
    figure.tight_layout(w_pad=4, h_pad=2)
    figure.savefig(path, dpi=110)
    plt.close(figure)
