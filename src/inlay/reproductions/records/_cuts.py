"""Where to cut ranked pairs so that enough matches remain: chosen on a validation split, judged on another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from inlay.records.blocking import block
from inlay.records.candidates import Candidates, Report, candidate_report
from inlay.reproductions.records._entity_tables import Judged

__all__ = ["COMPLETE", "Cut", "Measured", "best_of", "candidates_of", "measured"]

COMPLETE = 0.95
MOST = 50  # neighbours of a record that are looked at
KS = (1, 2, 3, 5, 10, 20)


class Cut(NamedTuple):
    """The k nearest of each record, if they score at least this."""

    k: int
    least: float

    def of(self, candidates: Candidates) -> Candidates:
        """The pairs that stay."""
        return candidates.nearest(self.k).at_least(self.least)


class Measured(NamedTuple):
    """What a method reached.

    Args:
        by_k: the test split, cut at the least k that is complete enough on validation.
        by_both: the same, cut at the k and the least score that are complete enough and of best F1 on validation.
        at_pc: the test split, cut at the k and score that are complete enough and of best F1 there: none could know
            them, but all are compared at one completeness.
        valid: F1 on validation at the latter cut; 0 where no cut is complete enough.
        reach: PC on validation of all pairs that were looked at.
        completeness: PC on the test split at k = 1, 2, 3, 5, 10, 20.
        counts: candidates at these.
    """

    by_k: Report
    by_both: Report
    at_pc: Report
    valid: float
    reach: float
    completeness: list[float]
    counts: list[int]


def candidates_of(how: Any, judged: Judged) -> Candidates:
    """All pairs that are looked at, best first."""
    return block(how, judged.asking, judged.among, MOST)


def measured(how: Any, valid: Judged, test: Judged) -> Measured:
    """Choose cuts on one split, and judge them on the other."""
    known, found = candidates_of(how, valid), candidates_of(how, test)
    by_k, by_both, f1 = _cuts(known, valid)
    _, at_pc, _ = _cuts(found, test)
    at = [_report(found.nearest(k), test) for k in KS]
    return Measured(
        by_k=_report(by_k.of(found), test),
        by_both=_report(by_both.of(found), test),
        at_pc=_report(at_pc.of(found), test),
        valid=f1,
        reach=_report(known, valid).completeness,
        completeness=[one.completeness for one in at],
        counts=[one.candidates for one in at],
    )


def best_of(options: dict[str, Callable[[], Any]], valid: Judged, test: Judged) -> tuple[str, Measured]:
    """The option of best F1 on validation, or of best completeness where none is complete enough."""
    found = {name: measured(make(), valid, test) for name, make in options.items()}
    best = max(found, key=lambda name: (found[name].valid, found[name].reach))
    return best, found[best]


def _report(candidates: Candidates, judged: Judged) -> Report:
    return candidate_report(candidates, judged.matches, within=judged.among is None)


def _cuts(candidates: Candidates, judged: Judged) -> tuple[Cut, Cut, float]:
    """The least k that is complete enough, and the k and score of best F1 that are; F1 at the latter."""
    by_k, best, f1 = Cut(MOST, -np.inf), Cut(MOST, -np.inf), 0.0
    true = {tuple(sorted(pair)) if judged.among is None else pair for pair in judged.matches}
    for k in range(MOST, 0, -1):
        kept = candidates.nearest(k)
        hits = np.cumsum([pair in true for pair in zip(kept.left.tolist(), kept.right.tolist())])
        if not len(hits) or hits[-1] < COMPLETE * len(true):  # nor will fewer neighbours do
            break
        by_k = Cut(k, -np.inf)
        f1s = np.where(hits >= COMPLETE * len(true), 2 * hits / (np.arange(len(hits)) + 1 + len(true)), 0)
        last = int(np.argmax(f1s))
        if f1s[last] > f1:
            best, f1 = Cut(k, float(kept.scores[last])), float(f1s[last])
    return by_k, best, f1
