"""The difference of two arms, with an interval for both things that make it chance: the seeds and the test rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, rankdata, t

__all__ = ["Gap", "auc_gap", "gap_of"]


class Gap(NamedTuple):
    """A difference of means and its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def auc_gap(labels: np.ndarray, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Gap:
    """AUC of ours minus theirs, paired by seed and by test row.

    Args:
        labels: of the test rows.
        ours: scores of each seed.
        theirs: of the other arm, the same seeds.
    """
    pairs = [(_placements(labels, a), _placements(labels, b)) for a, b in zip(ours, theirs)]
    up = np.mean([a[0] - b[0] for a, b in pairs], axis=0)  # DeLong, DeLong & Clarke-Pearson 1988, on means over seeds
    down = np.mean([a[1] - b[1] for a, b in pairs], axis=0)
    by_rows = float(np.sqrt(up.var(ddof=1) / len(up) + down.var(ddof=1) / len(down)))
    return gap_of([float((a[0] - b[0]).mean()) for a, b in pairs], by_rows)


def gap_of(by_seed: Sequence[float], by_rows: float) -> Gap:
    """Of a difference a seed, and the standard error of their mean over test rows."""
    mean, n = float(np.mean(by_seed)), len(by_seed)
    seeds = float(t.ppf(0.975, n - 1)) * float(np.std(by_seed, ddof=1)) / n**0.5 if n > 1 else 0.0
    half = float(np.hypot(float(norm.ppf(0.975)) * by_rows, seeds))
    return Gap(mean, mean - half, mean + half)


def _placements(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive, the share of negatives below it; of each negative, the share of positives above it."""
    positive = labels > 0
    ranks = rankdata(scores)
    up = (ranks[positive] - rankdata(scores[positive])) / (~positive).sum()
    down = 1 - (ranks[~positive] - rankdata(scores[~positive])) / positive.sum()
    return up, down
