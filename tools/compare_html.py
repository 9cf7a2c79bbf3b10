"""A comparison as one page that needs no network: table, figure, detections, and where every number comes from."""
from __future__ import annotations

import base64
import os
import platform
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path

from compare_examples import legend, panels
from compare_figure import with_curves
from compare_identity import annotations, content
from compare_plan import Plan
from compare_report import COST_NOTE, FILES, grid, note, summary
from compare_variants import ALONE
from jobs import Job, show
from machine import commit, device
from mmengine.config import Config
from rich.console import Console

PAGE = 'report.html'
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1200px; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } .note { color: #555; font-size: .9rem }
.wide { overflow-x: auto } img { max-width: 100% }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th { text-align: left }
td.short { white-space: nowrap } td, th { padding: .25rem .7rem; border-bottom: 1px solid #ddd; vertical-align: top }
.row { display: flex; flex-wrap: wrap; gap: .6rem; margin-bottom: 1.5rem } figure { margin: 0; width: 220px }
figcaption { font-size: .85rem; color: #555; overflow-wrap: anywhere } figcaption b { color: #222 }
code { font-size: .8rem; overflow-wrap: anywhere }
"""


def write_html(results: Sequence[dict], plan: Plan, folder: Path, console: Console) -> None:
    """Write the page into the folder where the figure is."""
    if not results:
        return
    rows = summary(results)
    lines = grid(results, rows)
    picture = base64.b64encode((folder / FILES[-1]).read_bytes()).decode()
    parts = [
        f'<h1>{escape(title(plan))}</h1>', '<h2>Results</h2>', table(lines[0], lines[1:]),
        f'<p class="note">{escape(note(results))} {escape(COST_NOTE)}</p>',
        f'<img alt="learning curves and results" src="data:image/png;base64,{picture}">',
        *detections(plan, [row['name'] for row in with_curves(rows)]),
        '<h2>Where the numbers come from</h2>', table(('', ''), versions()), '<h3>Data</h3>',
        table(('file', 'SHA-256'), data_files(plan)), '<h3>Trainings</h3>',
        table(('', 'seed', 'minutes', 'threads', 'command', 'checkpoint, SHA-256'), trainings(plan))]
    page = folder / PAGE
    page.write_text(f'<!DOCTYPE html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title(plan))}</title>\n'
                    '<meta name="viewport" content="width=device-width">\n'
                    f'<style>{STYLE}</style>\n' + '\n'.join(parts) + '\n</html>\n', encoding='utf-8')
    console.print(show(page), markup=False, highlight=False, soft_wrap=True)


def student_alone(plan: Plan) -> Job:
    """What every comparison has."""
    return next(job for (name, _), job in plan.trainings.items() if name == ALONE)


class Code(str):
    """Text of a table that is shown as code."""


def title(plan: Plan) -> str:
    """Names the folder of the comparison."""
    return f'Comparison: {student_alone(plan).folder.parents[1].name}'


def table(header: Sequence[str], rows) -> str:
    """Cells are text or :class:`Code`."""
    def cell(text: str) -> str:
        if isinstance(text, Code):
            return f'<td><code>{escape(text)}</code></td>'
        return f'<td{" class=short" * (len(text) < 24)}>{escape(text)}</td>'
    head = ''.join(f'<th>{escape(text)}</th>' for text in header)
    body = '\n'.join(f'<tr>{"".join(map(cell, row))}</tr>' for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def detections(plan: Plan, names: Sequence[str]) -> list[str]:
    """What the first seed's detectors find; nothing where there are none."""
    done = {name: job for (name, _), job in plan.tests.items() if job.is_done() and name in names}
    if not done:
        return []
    some = next(iter(done.values()))
    rows = panels(Config.fromfile(str(some.folder.parent / 'config.py')),
                  {name: str(done[name].product) for name in names if name in done})
    figures = [''.join(
        f'<figure><img alt="{escape(panel.title)}" src="{panel.image}">'
        f'<figcaption><b>{escape(panel.title)}</b><br>{escape(panel.caption)}</figcaption></figure>' for panel in row)
        for row in rows]
    return ['<h2>Detections</h2>', f'<p class="note">{escape(legend())} The first seed\'s detectors.</p>',
            *(f'<div class="row">{row}</div>' for row in figures)]


def versions() -> list[tuple[str, str]]:
    """Of everything whose change may change a result."""
    import mmcv
    import mmdet
    import mmengine
    import torch

    import mmgkd
    found = [(module.__name__, module.__version__) for module in (mmgkd, torch, mmengine, mmcv, mmdet)]
    return [*found, ('commit', commit()), ('Python', platform.python_version()), ('device', device()),
            ('cores', str(os.cpu_count()))]


def data_files(plan: Plan) -> list[tuple[str, str]]:
    """The annotations, with their digests."""
    cfg = Config.fromfile(str(student_alone(plan).folder / 'config.py'))
    return [(show(path), Code(content(path))) for path in annotations(cfg)]


def trainings(plan: Plan) -> list[tuple[str, ...]]:
    """How each was made, and what came out."""
    rows = []
    for (name, seed), job in plan.trainings.items():
        if not job.trains and rows:  # one test for all seeds
            continue
        if job.is_done():
            record = job.record()
            whole = '--resume' not in record['command']  # else the time is that of its last run alone
            minutes = f'{record["seconds"] / 60:.1f}' if whole else ''
            rows.append((name, str(seed), minutes, str(record['threads']),
                         Code(shlex.join(['python', *record['command'][1:]])),
                         Code(content(job.product) if job.trains else '')))
        elif (name, seed) in plan.known:
            rows.append((name, str(seed), '', '', f'from the log, commit {plan.known[name, seed]["commit"]}', ''))
    return rows
