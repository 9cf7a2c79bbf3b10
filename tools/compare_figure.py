"""The comparison's figure: learning curves with their spread over seeds, and what each student gained."""
from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from demo_figure import INK, apart, by_epoch, plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

FIXED = {'teacher': '#595959', 'alone': '#D55E00', 'inherit': '#CC79A7', 'gkd': '#0072B2'}
OTHERS = ('#009E73', '#E69F00', '#56B4E9', '#882255', '#999933', '#44AA99', '#332288', '#AA4499', '#661100', '#117733')
NAMED = 8  # curves that fit beside each other with their names


def colours(names: Sequence[str]) -> dict[str, str]:
    """One colour a row, the same for the same names in every figure; beyond ten others they come again."""
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
    """The rows whose curves are drawn: all, or the references, GKD and the best others."""
    kept = [row for row in rows if row['name'] in FIXED]
    others = sorted((row for row in rows if row['name'] not in FIXED), key=lambda row: -statistics.fmean(row['scores']))
    return kept + others[:max(0, NAMED - len(kept))]


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
                  linestyle='--' if row['name'] == 'teacher' else '-')
        ends[row['name']] = epochs[-1], means[-1]
    axes.set_xlim(left=min(1, max((x for x, _ in ends.values()), default=1) - 1))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel('epoch', color=INK)
    axes.set_title(f'{metric} on the validation images, %', loc='left', fontweight='bold', color=INK)
    order = sorted(ends, key=lambda name: ends[name][1])
    low, high = axes.get_ylim()
    for name, place in zip(order, apart([ends[name][1] for name in order], .045 * (high - low)), strict=True):
        axes.annotate(name, ends[name], xytext=(1.02, place), textcoords=('axes fraction', 'data'), va='center',
                      fontweight='bold', color=colour[name], annotation_clip=False)


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
        axes.text(0, i, f' {mean:.1f}', va='center', color='white', fontweight='bold')
    axes.set(yticks=range(len(rows)), yticklabels=[row['name'] for row in rows])
    axes.set_title(f'{metric} at the last epoch, %', loc='left', fontweight='bold', color=INK)


def draw(rows: Sequence[dict], metric: str, path: Path) -> None:
    """Write the figure as a PNG."""
    colour = colours([row['name'] for row in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, max(4.5, .32 * len(rows) + 1.5)), facecolor='white')
    draw_curves(left, rows, metric, colour)
    draw_bars(right, rows, metric, colour)
    for axes in (left, right):
        axes.spines[['top', 'right']].set_visible(False)
        axes.tick_params(colors=INK)
    left.grid(axis='y', color='#DDDDDD', linewidth=.8)
    figure.tight_layout(w_pad=4)
    figure.savefig(path, dpi=110)
    plt.close(figure)
