"""What is known about pairs while a hash learns: labels, or a rule that is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from inlay.errors import BadInput
from inlay.records.clustering import clusters
from inlay.records.serialisation import Record

__all__ = ["Labels", "Rule", "RuleLabels"]

Rule: TypeAlias = Callable[[Record, Record], bool]


class Labels:
    """Matches and non-matches that were given. A pair that nobody labelled is unknown.

    A record may be taken for a non-match of another only where the matches of both are known: those of a record that
    no match names may be among what was not labelled, or kept for a test.

    Args:
        count: records.
        matches: int64 [n, 2].
        non_matches: int64 [m, 2].
    """

    def __init__(self, count: int, matches: np.ndarray, non_matches: np.ndarray) -> None:
        self.matches = np.unique(matches, axis=0)
        self.known = np.zeros(count, dtype=bool)
        self.known[matches] = True
        self.group = np.arange(count)
        for group in clusters(count, map(tuple, matches.tolist())):
            self.group[group] = group[0]
        self.non_matches: dict[int, list[int]] = {}
        for a, b in non_matches.tolist():
            self.non_matches.setdefault(a, []).append(b)
            self.non_matches.setdefault(b, []).append(a)

    def consider(self, rows: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Which of the nearest [n, k] of rows [n] (−1: none) are non-matches, bool [n, k]."""
        return (near >= 0) & self.known[near] & (self.group[near] != self.group[rows][:, None])


class RuleLabels:
    """A rule labels pairs as they come up; matches that it finds on the way are learnt from too.

    Args:
        records: of both tables, one after the other.
        sides: int8 [n], the table of each record; all 0 where there is one.
        rule: says of two records whether they match; called once a pair, with the record of the first table first.
        pairs: int64 [n, 2], likely pairs, to begin with.
    """

    def __init__(self, records: Sequence[Record], sides: np.ndarray, rule: Rule, pairs: np.ndarray) -> None:
        self.records, self.sides, self.rule = records, sides, rule
        self.known = np.ones(len(records), dtype=bool)
        self.non_matches: dict[int, list[int]] = {}
        self._said: dict[tuple[int, int], bool] = {}
        for a, b in pairs.tolist():
            self._ask(a, b)
        self._gather()
        if not len(self.matches):
            raise BadInput(f"the rule calls none of the {len(pairs):,} likeliest pairs a match; does it expect others?")

    def consider(self, rows: np.ndarray, near: np.ndarray) -> np.ndarray:
        """Which of the nearest [n, k] of rows [n] (−1: none) the rule calls non-matches, bool [n, k]."""
        out = np.zeros(near.shape, dtype=bool)
        for i, (row, others) in enumerate(zip(rows.tolist(), near.tolist())):
            for j, other in enumerate(others):
                out[i, j] = other >= 0 and other != row and not self._ask(row, other)
        self._gather()
        return out

    def _ask(self, a: int, b: int) -> bool:
        key = (a, b) if (self.sides[a], a) < (self.sides[b], b) else (b, a)
        if key not in self._said:
            try:
                self._said[key] = bool(self.rule(self.records[key[0]], self.records[key[1]]))
            except Exception as error:
                raise BadInput(
                    f"the rule fails on records {key[0]} and {key[1]} ({error!r}); it must say True or False of any two"
                ) from error
        return self._said[key]

    def _gather(self) -> None:
        found = [pair for pair, said in self._said.items() if said]
        self.matches = np.array(sorted(found), np.int64).reshape(-1, 2)
        self.group = np.arange(len(self.records))
        for group in clusters(len(self.records), found):
            self.group[group] = group[0]
