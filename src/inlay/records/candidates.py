"""Pairs of records that are worth comparing, and what they are worth: pair completeness, pair quality, F1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput

__all__ = ["Candidates", "Report", "candidate_report", "checked_pairs"]


class Candidates:
    """Pairs of row numbers, each once, best first.

    Args:
        left: int64 [n], rows of the first table.
        right: int64 [n], rows of the second; of the first too where there is one table, and then left < right.
        scores: float32 [n], higher is nearer. Equal scores keep the order of rows.
    """

    def __init__(self, left: np.ndarray, right: np.ndarray, scores: np.ndarray) -> None:
        order = np.lexsort((right, left, -scores))
        self.left, self.right = np.asarray(left, np.int64)[order], np.asarray(right, np.int64)[order]
        self.scores = np.asarray(scores, np.float32)[order]

    @classmethod
    def within(cls, left: np.ndarray, right: np.ndarray, scores: np.ndarray) -> Candidates:
        """Pairs of one table's rows: turned so that left < right, a row with itself left out, the better score kept."""
        low, high = np.minimum(left, right), np.maximum(left, right)
        kept = low < high
        return cls.once(low[kept], high[kept], np.asarray(scores)[kept])

    @classmethod
    def once(cls, left: np.ndarray, right: np.ndarray, scores: np.ndarray) -> Candidates:
        """Pairs that may be given several times; of each the best score is kept."""
        found = cls(left, right, scores)
        width = int(found.right.max(initial=0)) + 1
        _, first = np.unique(found.left * width + found.right, return_index=True)
        first.sort()
        return cls(found.left[first], found.right[first], found.scores[first])

    def __len__(self) -> int:
        return len(self.left)

    def __repr__(self) -> str:
        return f"Candidates({len(self):,} pairs)"

    def __iter__(self) -> Iterator[tuple[int, int, float]]:
        return zip(self.left.tolist(), self.right.tolist(), self.scores.tolist())

    def best(self, count: int) -> Candidates:
        """The first pairs."""
        return Candidates(self.left[:count], self.right[:count], self.scores[:count])

    def at_least(self, score: float) -> Candidates:
        """Pairs of this score and above."""
        return self.best(int(np.count_nonzero(self.scores >= score)))

    def nearest(self, k: int) -> Candidates:
        """The k best pairs of each row of the first table."""
        order = np.argsort(self.left, kind="stable")
        starts = np.flatnonzero(np.diff(self.left[order], prepend=-1))
        place = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
        kept = np.sort(order[place < k])
        return Candidates(self.left[kept], self.right[kept], self.scores[kept])


class Report(NamedTuple):
    """How good candidates are.

    Args:
        completeness: PC, the share of matches among the candidates.
        quality: PQ, the share of candidates that are matches.
        f1: the harmonic mean of both.
        candidates: |C|.
        matches: how many there are to be found.
    """

    completeness: float
    quality: float
    f1: float
    candidates: int
    matches: int


def candidate_report(candidates: Candidates, matches: Iterable[tuple[int, int]], *, within: bool = False) -> Report:
    """Compare candidates with the pairs that are matches.

    Args:
        candidates: what `block` made.
        matches: (row of the first table, row of the second) of each.
        within: both are rows of one table, so that a pair may be named either way round.
    """
    pairs = checked_pairs(matches, "match")
    if within:
        pairs = np.sort(pairs, axis=1)
    if not len(pairs):
        raise BadInput("there are no matches to compare candidates with; give at least one pair")
    true, found = set(map(tuple, pairs.tolist())), zip(candidates.left.tolist(), candidates.right.tolist())
    hits = len(true.intersection(found))
    pc, pq = hits / len(true), hits / max(len(candidates), 1)
    return Report(pc, pq, 2 * pc * pq / (pc + pq) if hits else 0.0, len(candidates), len(true))


def checked_pairs(pairs: Any, what: str, sizes: tuple[int, int] | None = None) -> np.ndarray:
    """Pairs of row numbers as int64 [n, 2], or an error that names the first offender."""
    given = list(pairs)
    try:
        rows = np.asarray(given if given else np.empty((0, 2), np.int64))
    except ValueError:
        rows = np.empty(0)
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.issubdtype(rows.dtype, np.integer):
        odd = next((pair for pair in given if not _is_pair(pair)), given[0] if given else None)
        raise BadInput(f"a {what} is a pair of row numbers (i, j), got {odd!r}")
    limits = sizes or (np.iinfo(np.int64).max,) * 2
    bad = np.flatnonzero((rows < 0).any(axis=1) | (rows >= np.array(limits)).any(axis=1))
    if len(bad):
        said = "" if sizes is None else f"; the tables have {sizes[0]} and {sizes[1]} rows, counted from 0"
        raise BadInput(f"{what} {tuple(rows[bad[0]].tolist())} names a row that is not there{said}")
    return rows.astype(np.int64)


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(row, int | np.integer) for row in pair)
