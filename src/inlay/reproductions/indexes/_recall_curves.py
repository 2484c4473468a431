"""What an approximate index finds and what that costs, setting by setting, and what it costs at equal accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Point", "accuracy", "at", "micros", "slope"]


class Point(NamedTuple):
    """One setting of a search."""

    setting: str
    accuracy: float  # share of the true best that was found
    micros: float  # of processor time, a query
    scored: float  # rows scored, a query


def accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    """Share of true ids [queries, k], -1 for none, that are among those found."""
    hits = sum(np.isin(its[its >= 0], some).sum() for its, some in zip(truth, found))
    return float(hits / (truth >= 0).sum())


def micros(search: Callable[[], Any], queries: int, rounds: int = 2) -> float:
    """Microseconds of processor time a query, the least of some rounds: other programs only ever add to it."""
    times = []
    for _ in range(rounds):
        start = time.thread_time()
        search()
        times.append(time.thread_time() - start)
    return min(times) / queries * 1e6


def at(points: Iterable[Point], target: float, value: str = "micros") -> float | None:
    """A cost where accuracy is `target`: interpolated in its logarithm between settings that no other beats.

    None where no setting is as accurate. Where all are, the cost of the cheapest.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda one: getattr(one, value)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    if not front or front[-1].accuracy < target:
        return None
    costs = np.log([max(getattr(point, value), 1e-9) for point in front])
    return float(np.exp(np.interp(target, [point.accuracy for point in front], costs)))


def slope(sizes: Iterable[float], values: Iterable[float | None]) -> float | None:
    """The exponent with which values grow with sizes (log-log, least squares); None with fewer than two values."""
    pairs = [(size, value) for size, value in zip(sizes, values) if value]
    if len(pairs) < 2:
        return None
    x, y = np.log(np.array(pairs, dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])
