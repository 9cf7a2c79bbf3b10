"""Tables of results over seeds, as text."""
from __future__ import annotations

import statistics
from collections.abc import Sequence


def mean_and_spread(values: Sequence[float]) -> str:
    """``30.1``, or ``30.1 ± 0.8`` with the standard deviation over seeds."""
    mean = f'{statistics.fmean(values):.1f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.1f}'


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its header."""
    lines = [table[0], ['---'] * len(table[0]), *table[1:]]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
