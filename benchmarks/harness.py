"""What a fair comparison is: equal quality first, then timings in pairs, then the ratio of each pair.

A machine drifts (clock, neighbours, caches), so a time by itself says little. Ours and the peer's are measured
alternately, A B A B, and each pair gives one ratio; the median ratio and its spread are the result. The order within a
pair alternates too, so that neither side always finds the caches the other left.

A ratio is always *how many times better ours is*: peer's seconds (or bytes) over ours. Above 1 we win.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Contender", "Quality", "Ratios", "Row", "UnequalQuality", "alternate", "compare", "interleave", "ratios"]


LONG = 5.0  # seconds of a first call beyond which what it compiled no longer shows


class UnequalQuality(Exception):
    """The two sides do not give answers of the same quality, so a ratio of their times would mean nothing."""


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Args:
        name: what it is called in the table.
        run: one unit of work to be timed.
        quality: how good its answers are (higher is better); called once, untimed, before anything is measured.
    """

    name: str
    run: Callable[[], Any]
    quality: Callable[[], float] | None = None


@dataclass(frozen=True)
class Quality:
    """What must be equal before anything is timed.

    Args:
        measure: its name, for instance `nDCG@10`.
        tolerance: how far ours may lie from the peer's.
        at_least: True where ours may also be better: the peer's then is a floor.
    """

    measure: str
    tolerance: float
    at_least: bool = False

    def check(self, ours: float, peer: float) -> None:
        """Raise `UnequalQuality` unless the two are equal within the tolerance."""
        below = ours < peer - self.tolerance
        above = ours > peer + self.tolerance and not self.at_least
        if not (below or above) and ours == ours and peer == peer:
            return
        relation = "at least" if self.at_least else "within"
        raise UnequalQuality(
            f"{self.measure} of ours is {ours:.4f}, of the peer {peer:.4f}; needs to be {relation} {self.tolerance:g}"
        )


@dataclass(frozen=True)
class Ratios:
    """How many times better ours is, over the pairs measured."""

    min: float
    median: float
    max: float
    rounds: int


@dataclass
class Row:
    """One line of a result.

    Args:
        task: what was measured, for instance `search, batch 64, float32`.
        unit: of `ours` and `theirs`; medians.
        ours: our figure.
        peer: the peer's name.
        theirs: the peer's figure.
        ratio: how many times better ours is, pair by pair.
        quality: measure, ours and peer's.
        notes: further figures, by name.
        refused: why nothing was timed, if so.
    """

    task: str
    peer: str
    unit: str = "s"
    ours: float | None = None
    theirs: float | None = None
    ratio: Ratios | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Ratios:
    """Ratio of each pair (theirs over ours), and its spread."""
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"ratios need pairs, got {len(ours)} of ours and {len(theirs)} of the peer's")
    pairs = [b / a for a, b in zip(ours, theirs)]
    return Ratios(min(pairs), statistics.median(pairs), max(pairs), len(pairs))


def alternate(budget: float, least: int = 5, most: int = 51, *, clock=time.perf_counter) -> Iterator[tuple[int, int]]:
    """Orders of pairs, (0, 1) and (1, 0) in turn, until the budget of seconds is spent.

    At least `least` pairs whatever they cost, at most `most`, and an odd number, so that the median is a measurement.
    """
    start, done = clock(), 0
    while done < least or (clock() - start < budget and done < most) or done % 2 == 0:
        yield (0, 1) if done % 2 == 0 else (1, 0)
        done += 1


def interleave(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    budget: float = 10.0,
    least: int = 5,
    most: int = 51,
    shortest: float = 0.02,
) -> tuple[list[float], list[float]]:
    """Seconds a call of each, in pairs.

    Args:
        budget: seconds to spend.
        least: pairs to measure whatever they cost.
        most: pairs after which no more is learnt.
        shortest: seconds that one timing should last at least; shorter calls are repeated within it.
    """
    sides = (ours, theirs)
    repeats = []
    for side in sides:
        once = _timed(side, 1)  # warms caches and compiles, so a second one tells how long a call takes
        if once < LONG:
            once = _timed(side, 1)
        repeats.append(max(1, round(shortest / max(once, 1e-9))) if once < shortest else 1)
    seconds: tuple[list[float], list[float]] = ([], [])
    for order in alternate(budget, least, most):
        for which in order:
            seconds[which].append(_timed(sides[which], repeats[which]) / repeats[which])
    return seconds


def compare(
    task: str,
    ours: Contender,
    theirs: Contender,
    *,
    quality: Quality | None = None,
    per: float = 1.0,
    unit: str = "s",
    budget: float = 10.0,
    least: int = 5,
    notes: dict[str, Any] | None = None,
) -> Row:
    """Check that both sides answer equally well, then time them in pairs.

    Args:
        task: what is measured.
        ours: our side.
        theirs: the peer's.
        quality: what must be equal; None where both sides compute the same by definition.
        per: units of work in a run. With a unit that ends in `/s` the figures are `per / seconds`, otherwise
            `seconds / per`, in ms where the unit starts with `ms`.
        unit: of the figures.
        budget: seconds to spend on timing.
        least: pairs to measure whatever they cost.
        notes: further figures for the row.

    Returns:
        A row; where quality differs, a row with `refused` and no times.
    """
    row = Row(task, theirs.name, unit, notes=dict(notes or {}))
    if quality is not None and ours.quality and theirs.quality:
        a, b = float(ours.quality()), float(theirs.quality())
        row.quality = {"measure": quality.measure, "ours": round(a, 4), "peer": round(b, 4)}
        try:
            quality.check(a, b)
        except UnequalQuality as why:
            row.refused = str(why)
            return row
    seconds = interleave(ours.run, theirs.run, budget=budget, least=least)
    row.ours, row.theirs = (_figure(statistics.median(side), per, unit) for side in seconds)
    row.ratio = ratios(*seconds)
    return row


def _figure(seconds: float, per: float, unit: str) -> float:
    if unit.endswith("/s"):
        return per / seconds
    return seconds / per * (1e3 if unit.startswith("ms") else 1.0)


def _timed(work: Callable[[], Any], repeats: int) -> float:
    """Seconds of `repeats` calls, without a garbage collection that belongs to neither side."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        return time.perf_counter() - start
    finally:
        gc.enable()
