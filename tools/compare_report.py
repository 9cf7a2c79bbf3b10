"""What a comparison measured: a table for people, and the numbers as JSON and CSV."""
from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from demo_jobs import Job, read_scalars, show
from rich.console import Console
from rich.table import Table

METRICS = {  # MMEngine's name: what to call it, and the factor that makes it percent
    'coco/bbox_mAP': ('mAP', 100), 'pascal_voc/mAP': ('mAP', 100), 'accuracy/top1': ('top-1', 1)}
COLUMNS = ('', '{metric}', 'to alone', 'own terms: without → with it', 'time', 'peak MB')


def collect(jobs: Mapping[tuple[str, int], Job], terms: Mapping[tuple[str, int], Job]) -> list[dict]:
    """One entry for each training that is done, with its own terms if they were measured."""
    return [measure(name, seed, job, terms.get((name, seed))) for (name, seed), job in jobs.items() if job.is_done()]


def measure(name: str, seed: int, job: Job, terms: Job | None = None) -> dict:
    lines = read_scalars(job.folder)
    trained = [line for line in lines if 'loss' in line]
    validated = [line for line in lines if any(key in line for key in METRICS)]
    key = next((key for key in METRICS if validated and key in validated[-1]), None)
    return dict(name=name, seed=seed, metric=METRICS[key][0] if key else 'metric',
                score=max(0., validated[-1][key]) * METRICS[key][1] if key else float('nan'),
                curve={line['step']: line[key] * METRICS[key][1] for line in validated},
                terms=json.loads(terms.product.read_text()) if terms and terms.is_done() else {},
                seconds=statistics.median([line['time'] for line in trained] or [math.nan]),
                finite=all(math.isfinite(line['loss']) for line in trained),
                peak=job.record().get('peak', 0.), folder=str(job.folder))


def summary(results: Sequence[dict]) -> list[dict]:
    """One row for each name, over its seeds, compared with the student alone on the same seeds."""
    alone = {row['seed']: row for row in results if row['name'] == 'alone'}
    rows = []
    for name in dict.fromkeys(row['name'] for row in results):
        runs = [row for row in results if row['name'] == name]
        pairs = [(row, alone[row['seed']]) for row in runs if row['seed'] in alone]
        rows.append(dict(
            name=name, seeds=[row['seed'] for row in runs], scores=[row['score'] for row in runs],
            gains=[] if name in ('teacher', 'alone') else [row['score'] - base['score'] for row, base in pairs],
            time=statistics.median(row['seconds'] / base['seconds'] for row, base in pairs) if pairs else None,
            peak=max(row['peak'] for row in runs), finite=all(row['finite'] for row in runs),
            terms={term: tuple(statistics.fmean(row['terms'][term][i] for row in runs) for i in (0, 1))
                   for term in runs[0]['terms'] if all(term in row['terms'] for row in runs)}))
    return rows


def spread(values: Sequence[float], sign: str = '') -> str:
    """``30.1``, or ``30.1 ± 0.8`` with the standard deviation over seeds."""
    if not values:
        return ''
    mean = f'{statistics.fmean(values):{sign}.1f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.1f}'


def cells(row: dict) -> tuple[str, ...]:
    """A row in the order of ``COLUMNS``."""
    own = ', '.join(f'{term.partition("_")[2]} {without:.3g} → {having:.3g}'
                    for term, (without, having) in row['terms'].items())
    flags = ' (diverged)' * (not row['finite']) + ' (no term of its own fell)' * bool(
        row['terms'] and all(having >= without for without, having in row['terms'].values()))
    return (row['name'] + flags, spread(row['scores']), spread(row['gains'], '+'), own,
            f'{row["time"]:.2f}' if row['time'] else '', f'{row["peak"]:.0f}')


def finite_only(value):
    """With ``None`` for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: finite_only(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_only(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(results: Sequence[dict], folder: Path, console: Console) -> None:
    """Print the table, and write it and the numbers into a folder."""
    if not results:
        return
    rows = summary(results)
    columns = [column.format(metric=results[0]['metric']) for column in COLUMNS]
    table = Table(title='Comparison', title_justify='left')
    for i, column in enumerate(columns):
        table.add_column(column, justify='left' if i in (0, 3) else 'right', no_wrap=i != 3)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    count = max(len(row['seeds']) for row in rows)
    note = f'{columns[1]} in percent at the last epoch, mean ± standard deviation over {count} seed(s); "to alone": ' \
           'the mean paired difference; own terms: raw values on the same batches, for the student trained without ' \
           'the method and for the one trained with it; time of an iteration relative to the student alone, median, ' \
           'with other trainings beside it.'
    console.print(note, style='dim', markup=False, highlight=False)
    lines = [columns, ['---'] * len(columns), *map(cells, rows)]
    text = '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    (folder / 'results.md').write_text(f'{text}\n\n{note}\n')
    (folder / 'results.json').write_text(json.dumps(finite_only(results), indent=1))
    with (folder / 'results.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['name', 'seed', columns[1], 'seconds_per_iteration', 'peak_MB', 'folder'])
        for row in results:
            writer.writerow([row[key] for key in ('name', 'seed', 'score', 'seconds', 'peak', 'folder')])
    console.print(', '.join(show(folder / name) for name in ('results.md', 'results.csv', 'results.json')),
                  markup=False, highlight=False, soft_wrap=True)
