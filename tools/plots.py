"""What figures of learning curves share; they are drawn without a screen."""
from __future__ import annotations

import math

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt  # noqa: E402

__all__ = ['INK', 'apart', 'by_epoch', 'plt']

INK = '#333333'


def by_epoch(curve: dict) -> dict[int, float]:
    """A curve in the order of its epochs, which are text where it comes from a file."""
    return dict(sorted((int(epoch), value) for epoch, value in curve.items()))


def apart(places: list[float], least: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Rising places, moved as little as need be to lie so far from each other, from low to high if they fit there."""
    places = list(places)
    for _ in range(100):
        for i in range(len(places) - 1):
            push = max(0, least - places[i + 1] + places[i]) / 2
            places[i], places[i + 1] = places[i] - push, places[i + 1] + push
    for i in reversed(range(len(places))):
        places[i] = high = min(places[i], high)
        high -= least
    for i in range(len(places)):
        places[i] = low = max(places[i], low)
        low += least
    return places
