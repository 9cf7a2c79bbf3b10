"""What methods do on several pairs together, from the logs of their comparisons; nothing is trained.

    python tools/compare_pairs.py docs/logs/bccd.json.gz docs/logs/digits.json.gz --seeds 0 1 2 --out work_dirs/pairs
    python tools/compare_pairs.py docs/logs/digits.json.gz --to alone gkd     # and how far each method is from GKD

For each pair the part of the gap between the student alone and its teacher that a method makes up, in percent; then
its mean over pairs, and the pair on which it gained least.
"""
from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from compare_figure import colours  # noqa: E402
from compare_log import read_log  # noqa: E402
from compare_report import COLUMNS, grid, note, summary  # noqa: E402
from compare_variants import ALONE, INHERIT, TEACHER  # noqa: E402
from plots import INK, plt  # noqa: E402
from tables import markdown  # noqa: E402

FILES = ('pairs.md', 'pairs.png')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('logs', nargs='+', type=Path, metavar='LOG',
                        help='what tools/compare.py --log wrote, one a pair')
    parser.add_argument('--seeds', nargs='+', type=int, help='of these seeds alone, such as those of no tuning')
    parser.add_argument('--methods', nargs='+', help='rows to show, by name (default: all)')
    parser.add_argument('--to', nargs='+', default=[ALONE], metavar='NAME',
                        help=f'the rows that gains are gains over (default: {ALONE})')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help=f'write {" and ".join(FILES)} there')
    args = parser.parse_args(argv)
    for path in args.logs:
        if not path.is_file():
            parser.error(f'no log {str(path)!r}: tools/compare.py PAIR --log {path} makes one')
    if len({pair_of(path) for path in args.logs}) < len(args.logs):
        parser.error('two logs have one name, by which pairs are called: rename one')
    return args


def pair_of(path: Path) -> str:
    """What a pair is called."""
    return path.name.partition('.')[0]


def chosen(entries: Sequence[dict], seeds: Sequence[int] | None, methods: Sequence[str] | None) -> list[dict]:
    """The entries of some seeds and methods, of the student alone, and of the teachers of these."""
    entries = [entry for entry in entries if seeds is None or entry['seed'] in seeds]
    if methods is None:
        return entries
    students = [entry for entry in entries if entry['name'] in (ALONE, *methods)]
    names = {entry['name'] for entry in students} | {entry['teacher'] for entry in students}
    return [entry for entry in entries if entry['name'] in names]


def ranked(entries: Sequence[dict]) -> list[dict]:
    """Teacher, student alone and inheritance first, then the best on top."""
    scores: dict[str, list[float]] = {}
    for entry in entries:
        scores.setdefault(entry['name'], []).append(entry['score'])
    first = {name: i for i, name in enumerate((TEACHER, ALONE, INHERIT))}
    return sorted(entries, key=lambda entry: (first.get(entry['name'], len(first)),
                                              -statistics.fmean(scores[entry['name']]), entry['name'], entry['seed']))


def shares(summaries: Mapping[str, Sequence[dict]]) -> dict[str, dict[str, float]]:
    """By method and pair the part of the gap made up; of pairs whose teacher is ahead."""
    found: dict[str, dict[str, float]] = {}
    for pair, rows in summaries.items():
        for row in rows:
            if row['share'] is not None:
                found.setdefault(row['name'], {})[pair] = row['share']
    return found


def across(summaries: Mapping[str, Sequence[dict]], reference: str = ALONE) -> list[list[str]]:
    """The table over pairs, header first: the best mean of those that were measured on most pairs on top."""
    found, pairs = shares(summaries), list(summaries)
    gains = {(row['name'], pair): statistics.fmean(row['gains'])
             for pair, rows in summaries.items() for row in rows if row['gains']}
    fewer = {(row['name'], pair): f' ({len(row["seeds"])} seed(s))'
             for pair, rows in summaries.items() for row in rows if row['missing']}
    order = sorted(found, key=lambda name: (-len(found[name]), -statistics.fmean(found[name].values())))
    table = [['', *pairs, 'mean', f'least gain over {reference}']]
    for name in order:
        worst = min(((gain, pair) for (of, pair), gain in gains.items() if of == name), default=None)
        shown = [f'{100 * found[name][pair]:.0f} %{fewer.get((name, pair), "")}' if pair in found[name] else ''
                 for pair in pairs]
        mean = f'{100 * statistics.fmean(found[name].values()):.0f} %'
        mean += f' of {len(found[name])}' if len(found[name]) < len(pairs) else ''
        table.append([name, *shown, mean, f'{worst[0]:+.1f} ({worst[1]})' if worst else ''])
    return table


def table(entries: Sequence[dict], references: Sequence[str]) -> list[list[str]]:
    """A pair's table, header first, with a column of gains over each reference."""
    found = [list(zip(*grid(entries, summary(entries, name), name, COLUMNS), strict=True)) for name in references]
    gains = [column for columns in found for column in columns if column[0] in {f'to {name}' for name in references}]
    rest = [column for column in found[0] if column not in gains]
    return list(zip(*rest[:2], *gains, *rest[2:], strict=True))


def draw(summaries: Mapping[str, Sequence[dict]], path: Path) -> None:
    """A point for each method and pair, and a bar to the mean of those that were measured on all pairs."""
    found = {name: of for name, of in shares(summaries).items() if len(of) == len(summaries)}
    order = sorted(found, key=lambda name: statistics.fmean(found[name].values()))
    colour, markers = colours(order), 'osD^v<>ph*'
    figure, axes = plt.subplots(figsize=(9, max(3., .32 * len(order) + 1.5)), facecolor='white')
    for i, name in enumerate(order):
        axes.barh(i, 100 * statistics.fmean(found[name].values()), color=colour[name], alpha=.5, height=.7)
        for pair, marker in zip(summaries, markers * len(summaries), strict=False):
            axes.plot(100 * found[name][pair], i, marker, color=INK, markersize=5, label=pair if not i else None)
    axes.axvline(0, color=INK, linewidth=.8)
    axes.axvline(100, color=INK, linewidth=.8, linestyle='--')
    axes.set(yticks=range(len(order)), yticklabels=order, xlabel='% of the gap between student alone and teacher')
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(colors=INK)
    if order:
        axes.legend(frameon=False, loc='lower right', bbox_to_anchor=(1, 1), ncols=3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    logs = {pair_of(path): read_log(path) for path in args.logs}
    there = {ALONE, *(entry['name'] for log in logs.values() for entry in chosen(log, args.seeds, None))}
    if unknown := {*args.to, *(args.methods or ())} - there:
        raise SystemExit(f'tools/compare_pairs.py: no log has {", ".join(sorted(unknown))}'
                         f'{" of these seeds" if args.seeds else ""}; they have {", ".join(sorted(there))}')
    methods = args.methods and [*args.methods, *args.to]
    entries = {pair: ranked(chosen(log, args.seeds, methods)) for pair, log in logs.items()}
    if empty := [pair for pair, rows in entries.items() if not rows]:
        raise SystemExit(f'tools/compare_pairs.py: nothing is left of {", ".join(empty)}: other --seeds?')
    parts = []
    for pair, rows in entries.items():
        parts += [f'## {pair}', markdown(table(rows, args.to)), note(rows, '" or "to '.join(args.to))]
    summaries = {pair: summary(rows, args.to[0]) for pair, rows in entries.items()}
    if len(summaries) > 1:
        parts += ['## all pairs: part of the gap', markdown(across(summaries, args.to[0]))]
    text = '\n\n'.join(parts) + '\n'
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / FILES[0]).write_text(text, encoding='utf-8')
        draw(summaries, args.out / FILES[1])


if __name__ == '__main__':
    main()
