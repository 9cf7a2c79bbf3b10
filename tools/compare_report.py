"""What a comparison measured: a table for people, a figure, and the numbers as JSON and CSV."""
from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from compare_figure import draw
from compare_log import finite_only, thin
from compare_plan import Plan
from compare_variants import ALONE, TEACHER
from jobs import Job, show
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.stats import t as student_t
from tables import markdown, mean_and_spread
from training_files import read_scalars

METRICS = {  # MMEngine's name: what to call it, and the factor that makes it percent
    'coco/bbox_mAP': ('mAP', 100), 'pascal_voc/mAP': ('mAP', 100), 'accuracy/top1': ('top-1', 1)}
COLUMNS = ('', '{metric}', 'to {reference}', 'of the gap', 'own terms: without → with it')
COST = ('time', 'peak MB')
NOTE = '{metric} in percent at the last epoch, mean ± standard deviation over {count} seed(s). "To {reference}": the ' \
       'mean paired difference to that row, with a 95 % confidence interval (Student\'s t) where there are several ' \
       'seeds, which is over seeds alone and not over images; "of the gap": the gain over the student alone, divided ' \
       'by what its teacher is ahead, if that is a point or more. Own terms: raw values on the same batches, for the ' \
       'student trained without the method and for the one trained with it.'
COST_NOTE = 'Time of an iteration relative to the student alone, and memory of the process: medians over seeds, with ' \
            'other trainings beside them; no time where the student alone did not run on the same machine.'
LEAST_LEAD = 1.  # point: parts of less are noise
FILES = ('results.md', 'results.csv', 'results.json', 'results.png')


def collect(plan: Plan) -> list[dict]:
    """One entry for each training that is done, or that the log knows, with its own terms if they were measured."""
    results = []
    for key, job in plan.trainings.items():
        known = plan.known.get(key)
        found = job.is_done() and measure(*key, job, plan.terms.get(key)) | dict(
            identity=plan.identities[key], teacher=plan.teachers[key])
        if known and found and known['digest'] == job.digest:
            found = known | dict(terms=found['terms'] or known['terms'])
        if found or known:
            results.append(found or known)
    return results


def doubts(plan: Plan) -> list[str]:
    """What a reader of a table with entries of a log has to know."""
    said = [f'{name} of seed {seed} is {called} in the log, by which name compare_pairs.py knows it.'
            for (name, seed), called in plan.logged.items() if called != name]
    other = [key for key, known in plan.known.items() if known['digest'] != plan.trainings[key].digest]
    if other:
        commits = sorted({plan.known[key]['commit'] or 'unknown' for key in other})
        said.append(f'{len(other)} of {len(plan.known)} trainings of the log ran with other code of mmgkd than this, '
                    f'of commit {", ".join(commits)}; to train them again, give another --log.')
    for (name, seed), known in plan.known.items():
        job = plan.trainings[name, seed]
        if job.is_done() and (score := measure(name, seed, job)['score']) != known['score']:
            said.append(f'Trained again, {name} of seed {seed} scores {score:.1f}, and {known["score"]:.1f} in the '
                        'log: another machine, other versions or other code.')
    return said


def measure(name: str, seed: int, job: Job, terms: Job | None = None) -> dict:
    """What a training, or the test of a given teacher, left: an entry of a log, but for identity and teacher."""
    lines = read_scalars(job.folder) if job.trains else [
        dict(json.loads((job.folder / 'scores.json').read_text()), step=0)]
    trained = [line for line in lines if 'loss' in line]
    found = {line['step']: (key, line[key]) for line in lines for key in METRICS if key in line}
    key = next((key for key, _ in found.values()), 'coco/bbox_mAP')  # which is silent where nothing was found
    curve = {step: max(0., value) * METRICS[key][1] for step, (_, value) in found.items()}
    last = int(job.product.stem.rpartition('_')[2]) if job.trains else 0
    record = job.record() if job.trains else job.record() | dict(peak=0., machine=None)  # a test is no training
    return dict(name=name, seed=seed, metric=METRICS[key][0], score=curve.get(last, 0.),
                curve=curve if job.trains else {},
                taught_by=score_of(job.needs[0]) if job.needs else None, digest=job.digest,
                terms=json.loads(terms.product.read_text()) if terms and terms.is_done() else {},
                seconds=statistics.median([line['time'] for line in trained] or [math.nan]),
                finite=all(math.isfinite(line['loss']) for line in trained), scalars=thin(lines),
                peak=record.get('peak', 0.), commit=record.get('commit', ''), machine=record.get('machine'),
                folder=str(job.folder))


def score_of(teacher: Job) -> float | None:
    """A teacher's at its last epoch, if it is done."""
    return measure('', 0, teacher)['score'] if teacher.is_done() else None


def summary(results: Sequence[dict], reference: str = ALONE) -> list[dict]:
    """One row for each name, over its seeds, compared with the student alone on the same seeds.

    Gains are those over the row called ``reference``; ``time`` is that of an iteration and ``cost`` that of the whole
    training, relative to the student alone.
    """
    alone, others = ({row['seed']: row for row in results if row['name'] == name} for name in (ALONE, reference))
    teachers = {(row['name'], row['seed']): row for row in results if row['name'].partition(' ')[0] == TEACHER}
    rows = []
    for name in dict.fromkeys(row['name'] for row in results):
        runs = [row for row in results if row['name'] == name]
        pairs = [(row, alone[row['seed']]) for row in runs if row['seed'] in alone]
        gaps = [(row['score'] - base['score'], teachers[row['teacher'], row['seed']]['score'] - base['score'])
                for row, base in pairs if (row['teacher'], row['seed']) in teachers]
        times = [(row['seconds'] / base['seconds'], iterations(row) / iterations(base)) for row, base in pairs
                 if row.get('machine') and row['machine'] == base.get('machine')]
        rows.append(dict(
            name=name, seeds=[row['seed'] for row in runs], scores=[row['score'] for row in runs],
            curves=[row['curve'] for row in runs],
            gains=[] if name == reference or name.partition(' ')[0] == TEACHER else
            [row['score'] - others[row['seed']]['score'] for row in runs if row['seed'] in others],
            share=None if is_reference(name) else share(gaps),
            time=statistics.median(one for one, _ in times) if times else None,
            cost=statistics.median(one * count for one, count in times) if times else None,
            peak=statistics.median(row['peak'] for row in runs), finite=all(row['finite'] for row in runs),
            missing=len({row['seed'] for row in results} - {row['seed'] for row in runs}),
            strange=sum(is_strange(row, teachers) for row in runs),
            terms={term: tuple(statistics.fmean(row['terms'][term][i] for row in runs) for i in (0, 1))
                   for term in runs[0]['terms'] if all(term in row['terms'] for row in runs)}))
    return rows


def iterations(entry: dict) -> float:
    """How many a training had; nan where its log has none."""
    return max((line['step'] for line in entry['scalars'] if 'loss' in line), default=math.nan)


def is_strange(row: dict, teachers: Mapping[tuple[str, int], dict]) -> bool:
    """Whether a student's teacher is not the one in the table: trained elsewhere, it came out otherwise."""
    teacher = teachers.get((row['teacher'], row['seed']))
    return teacher is not None and row['taught_by'] not in (None, teacher['score'])


def is_reference(name: str) -> bool:
    """Whether a row is what others are compared with."""
    return name == ALONE or name.partition(' ')[0] == TEACHER


def share(gaps: Sequence[tuple[float, float]]) -> float | None:
    """The part of the teacher's lead that a student has made up, of means over seeds; none of next to no lead."""
    gain, lead = (statistics.fmean(values) for values in zip(*gaps, strict=True)) if gaps else (0., 0.)
    return gain / lead if lead >= LEAST_LEAD else None


def interval(values: Sequence[float], level: float = .95) -> tuple[float, float] | None:
    """The confidence interval of the mean of normal values, by Student's t; none of a single value."""
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    half = student_t.ppf((1 + level) / 2, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def gain(values: Sequence[float]) -> str:
    """``+2.0``, or ``+2.0 [-0.5, +4.5]`` with the confidence interval."""
    if not values:
        return ''
    bounds = interval(values)
    return f'{statistics.fmean(values):+.1f}' + (f' [{bounds[0]:+.1f}, {bounds[1]:+.1f}]' if bounds else '')


def cells(row: dict) -> tuple[str, ...]:
    """A row in the order of ``COLUMNS`` and ``COST``, empty where there is nothing to say."""
    own = ', '.join(f'{term.partition("_")[2]} {without:.3g} → {having:.3g}'
                    for term, (without, having) in row['terms'].items())
    idle = row['terms'] and all(having >= without for without, having in row['terms'].values())
    flags = ''.join(f' ({flag})' for flag, holds in (
        (f'{row["missing"]} seed(s) missing', row['missing']), ('another teacher', row['strange']),
        ('diverged', not row['finite']), ('no term of its own fell', idle)) if holds)
    return (row['name'] + flags, mean_and_spread(row['scores']), gain(row['gains']),
            '' if row['share'] is None else f'{100 * row["share"]:.0f} %', own,
            f'{row["time"]:.2f}' if row['time'] else '', f'{row["peak"]:.0f}' if row['peak'] else '')


def grid(results: Sequence[dict], rows: Sequence[dict], reference: str = ALONE,
         columns: Sequence[str] = COLUMNS + COST) -> list[tuple[str, ...]]:
    """The table, header first, without columns of which no row has anything."""
    header = [column.format(metric=results[0]['metric'], reference=reference) for column in columns]
    lines = zip(header, *(cells(row)[:len(header)] for row in rows), strict=True)
    return list(zip(*(line for line in lines if any(line[1:])), strict=True))


def note(results: Sequence[dict], reference: str = ALONE) -> str:
    """What the columns mean."""
    return NOTE.format(metric=results[0]['metric'], reference=reference, count=len({row['seed'] for row in results}))


def write(results: Sequence[dict], folder: Path, console: Console) -> None:
    """Print the table, and write it, the figure and the numbers into a folder."""
    if not results:
        return
    rows = summary(results)
    lines = grid(results, rows)
    table = Table(title='Comparison', title_justify='left')
    narrow = [i for i, column in enumerate(lines[0]) if not column.startswith('own terms')]  # for a terminal
    for i in narrow:
        table.add_column(lines[0][i], justify='right' if i else 'left', no_wrap=bool(i), overflow='fold')
    for line in lines[1:]:
        table.add_row(*(escape(line[i]) for i in narrow))
    console.print(table)
    said = f'{note(results)} {COST_NOTE}'
    console.print(said, style='dim', markup=False, highlight=False)
    paths = text_file, csv_file, json_file, picture = [folder / name for name in FILES]
    text_file.write_text(f'{markdown(lines)}\n\n{said}\n', encoding='utf-8')
    numbers = [{key: value for key, value in row.items() if key != 'scalars'} for row in results]
    json_file.write_text(json.dumps(finite_only(numbers), indent=1))
    with csv_file.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['name', 'seed', lines[0][1], 'seconds_per_iteration', 'peak_MB', 'commit', 'folder'])
        for row in results:
            writer.writerow([row[key] for key in ('name', 'seed', 'score', 'seconds', 'peak', 'commit')]
                            + [row.get('folder', '')])
    draw(rows, lines[0][1], picture)
    console.print(', '.join(map(show, paths)), markup=False, highlight=False, soft_wrap=True)
