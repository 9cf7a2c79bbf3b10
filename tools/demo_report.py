"""What the demo measured: a table, a sentence on what it means, and both as files."""
from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from boxes import Boxes, read_predictions
from demo_figure import Example, draw
from jobs import Job, show
from machine import ROOT, device
from rich.console import Console
from rich.table import Table
from tables import markdown, mean_and_spread
from training_files import read_scalars

NAMES = dict(teacher='teacher', student='student alone', gkd='student + GKD')
COLUMNS = ('', 'mAP', 'AP50', 'parameters', 'ms/iteration')
EXAMPLES = 3
DIGITS = (4, 6)  # in an example: enough to compare, few enough to see
FILES = ('results.json', 'results.md', 'comparison.png')


# ---- reading

def collect(trainings: Mapping[tuple[str, int], Job], tests: Mapping[tuple[str, int], Job], data: Path, *,
            quick: bool, cores: int) -> dict:
    """Everything measured, by detector, one value for each seed."""
    seeds = sorted({seed for _, seed in trainings})
    detectors = {}
    for kind, name in NAMES.items():
        jobs = [trainings[kind, seed] for seed in seeds]
        scores = [read_metrics(tests[kind, seed].folder) for seed in seeds]
        logs = [read_scalars(job.folder) for job in jobs]
        detectors[kind] = dict(
            name=name, mAP=[score['mAP'] for score in scores], AP50=[score['AP50'] for score in scores],
            parameters=count_parameters(jobs[0].command[2]),
            ms_per_iteration=[iteration_time(log) for log in logs],
            threads=[job.record()['threads'] for job in jobs], curves=[curve(log) for log in logs],
            folders=[str(job.folder) for job in jobs],
            predictions=[str(tests[kind, seed].product) for seed in seeds])
    return dict(seeds=seeds, quick=quick, cores=cores, device=device(), data=str(data), detectors=detectors)


def read_metrics(folder: Path) -> dict[str, float]:
    """mAP and AP50 of the last test, in percent."""
    path = max(path for path in folder.glob('*/*.json') if path.stem == path.parent.name)
    values = json.loads(path.read_text())
    # a detector that finds nothing at all leaves COCO's evaluation without a number
    keys = dict(mAP='coco/bbox_mAP', AP50='coco/bbox_mAP_50')
    return {name: 100 * max(0., values.get(key, 0.)) for name, key in keys.items()}


def curve(lines: Sequence[dict]) -> dict[int, float]:
    """mAP in percent by epoch; of an epoch that was run twice, the second run counts."""
    return {line['step']: 100 * max(0., line['coco/bbox_mAP']) for line in lines if 'coco/bbox_mAP' in line}


def iteration_time(lines: Sequence[dict]) -> float:
    """Milliseconds of a training iteration, the median over the log."""
    return 1000 * statistics.median(line['time'] for line in lines if 'loss' in line)


def count_parameters(config: str) -> int:
    """Of the detector that is deployed: what only distillation trains is not in it."""
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    from mmgkd.detectors import model_config
    init_default_scope('mmdet')
    model = Config.fromfile(str(ROOT / config)).model
    return sum(p.numel() for p in MODELS.build(model_config(model.get('student', model))).parameters())


# ---- saying

def rows(results: dict) -> list[tuple[str, ...]]:
    """The table's rows, in the order of ``COLUMNS``."""
    return [(row['name'], mean_and_spread(row['mAP']), mean_and_spread(row['AP50']),
             f'{row["parameters"] / 1e6:.2f} M',
             f'{statistics.median(row["ms_per_iteration"]):.0f}') for row in results['detectors'].values()]


def differences(results: dict) -> list[float]:
    """mAP with GKD less mAP alone, seed by seed."""
    detectors = results['detectors']
    return [a - b for a, b in zip(detectors['gkd']['mAP'], detectors['student']['mAP'], strict=True)]


def verdict(results: dict) -> str:
    """A plain sentence on the difference, and whether it is more than chance may give."""
    gains = differences(results)
    mean = statistics.fmean(gains)
    says = f'With GKD the student is {"better" if mean > 0 else "worse"} by {abs(mean):.1f} points of mAP'
    if round(mean, 1) == 0:
        says = 'With GKD the student is as good as alone to within 0.1 points of mAP'
    if len(gains) == 1:
        return f'{says}, on one seed. One seed does not tell a difference from chance; three seeds: ' \
               'make demo SEEDS=3, or python tools/demo.py --seeds 3'
    spread = max(statistics.stdev(results['detectors'][kind]['mAP']) for kind in ('student', 'gkd'))
    each = ', '.join(f'{gain:+.1f}' for gain in gains)
    against = 'more than' if abs(mean) > spread else 'not more than'
    means = '' if abs(mean) > spread else ': these runs do not tell the two apart'
    return f'{says}, the mean over {len(gains)} seeds (one by one {each}; their standard deviation ' \
           f'{statistics.stdev(gains):.1f}). That is {against} the spread over seeds, {spread:.1f} (the ' \
           f'larger of the two standard deviations){means}.'


def notes(results: dict) -> list[str]:
    """What a reader must know of the numbers."""
    count = len(results['seeds'])
    threads = sorted({number for row in results['detectors'].values() for number in row['threads']})
    used = 'one thread each' if threads == [1] else f'{" or ".join(map(str, threads))} threads each'
    over = f', mean ± standard deviation over {count} seeds' if count > 1 else ''
    cores = f' with {results["cores"]} cores, {used}' if results['device'] == 'CPU' else ''
    time = f'ms/iteration: training time on {results["device"]}{cores}, with other jobs beside it; median. ' \
           'In use, parameters and speed of the student are the same with and without GKD.'
    quick = ['Made with --quick, to see that everything works: the numbers mean nothing.'] * results['quick']
    start = 'The student with GKD also starts from the teacher\'s neck and head (inherit, configs/digits/gkd.py).'
    return [*quick, f'mAP and AP50 in percent{over}.', start, time]


def as_text(results: dict) -> str:
    """The table, what it means, and the figure, as Markdown."""
    table = markdown([COLUMNS, *rows(results)])
    return '\n\n'.join([table, verdict(results), *notes(results), f'![comparison]({FILES[2]})\n'])


def print_table(results: dict, console: Console) -> None:
    table = Table(title='Detection of handwritten digits', title_justify='left')
    for i, column in enumerate(COLUMNS):
        table.add_column(column, justify='right' if i else 'left', no_wrap=True)
    for row in rows(results):
        table.add_row(*row)
    console.print(table)
    console.print(verdict(results), markup=False, highlight=False)
    for note in notes(results):
        console.print(note, style='dim', markup=False, highlight=False)


def write(results: dict, folder: Path, console: Console) -> None:
    """Print the results, and write them and the figure into a folder."""
    numbers, text, picture = (folder / name for name in FILES)
    numbers.write_text(json.dumps({**results, 'gkd_minus_alone': differences(results)}, indent=1))
    text.write_text(as_text(results))
    lines = dict(zip(results['detectors'], rows(results), strict=True))
    draw(results, COLUMNS, lines, examples(results), picture)
    print_table(results, console)
    for path in (numbers, text, picture):
        console.print(show(path), markup=False, highlight=False, soft_wrap=True)


# ---- examples

def examples(results: dict) -> list[Example]:
    """What the first seed's detectors find on some validation images, spread evenly over the fair ones."""
    data = Path(results['data'])
    coco = json.loads((data / 'annotations/val.json').read_text())
    found = {kind: read_predictions(row['predictions'][0]) for kind, row in results['detectors'].items()}
    order = {category['id']: i for i, category in enumerate(coco['categories'])}
    images, truths = coco['images'], {image['id']: [] for image in coco['images']}
    for annotation in coco['annotations']:
        truths[annotation['image_id']].append(annotation)
    fair = [image for image in images if DIGITS[0] <= len(truths[image['id']]) <= DIGITS[1]] or images
    chosen = []
    for image in fair[::max(1, len(fair) // EXAMPLES)][:EXAMPLES]:
        truth = truths[image['id']]
        boxes = np.array([a['bbox'] for a in truth], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([order[a['category_id']] for a in truth], int)
        chosen.append(Example(data / 'images/val' / image['file_name'],
                              Boxes(boxes, labels, np.ones(len(labels))),
                              {kind: found[kind][image['id']] for kind in found}))
    return chosen
