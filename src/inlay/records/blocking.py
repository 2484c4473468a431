"""Blocking by nearness: for each record the k nearest of the other table, or of its own, are worth comparing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inlay.encoders.items import bar
from inlay.errors import BadInput
from inlay.indexes.flat import Flat, checked_k
from inlay.indexes.inverted import Inverted
from inlay.records.candidates import Candidates
from inlay.records.serialisation import Record, Serialised, checked_records
from inlay.types import Encoder, Sparse

__all__ = ["block", "nearest_pairs"]

AT_ONCE = 512  # records searched between two steps of the progress bar


def block(
    how: Any, a: Sequence[Record], b: Sequence[Record] | None = None, k: int = 10, *, least: float | None = None,
    progress: bool = False,
) -> Candidates:  # fmt: skip
    """Candidate pairs of two tables, or of one with itself.

    Args:
        how: what makes rows of records (`RecordGrams`, `NeuralLSH`, `Serialised`), an encoder of texts, which reads
            them serialised, or what makes pairs itself (`TokenBlocking`, `MinHash`). One that has not been fitted is
            fitted to these records.
        a: the table whose records look for others.
        b: the table in which they look; None for `a` itself.
        k: how many each record finds, at most.
        least: lowest score of a pair: where `how` is a `NeuralLSH`, −r² for a radius r; None takes all k.
        progress: show a progress bar on stderr.
    """
    a = checked_records(a, "record of the first table")
    b = None if b is None else checked_records(b, "record of the second table")
    k = checked_k(k)
    if hasattr(how, "block"):
        found: Candidates = how.block(a, b).nearest(k)
    else:
        if not hasattr(how, "encode") and isinstance(how, Encoder):
            how = Serialised(how)
        if not hasattr(how, "encode") or not hasattr(how, "space"):
            raise BadInput(f"blocking needs an encoder of records or of texts, got {how!r}")
        if hasattr(how, "fit") and not getattr(how, "fitted", True):
            how.fit([*a, *(b or ())])
        if isinstance(how, Serialised):
            how.fit([*a, *(b or ())])
        left = how.encode(a)
        found = nearest_pairs(left, None if b is None else how.encode(b), k, how.space.metric, progress=progress)
    return found if least is None else found.at_least(least)


def nearest_pairs(
    left: np.ndarray | Sparse, right: np.ndarray | Sparse | None, k: int, metric: Any = "dot", *, progress: bool = False
) -> Candidates:
    """The k nearest rows of `right` (None: of `left` itself, but for the row) of each row of `left`."""
    among = left if right is None else right
    index: Any = Inverted() if isinstance(among, Sparse) else Flat(among.shape[1], metric=metric)
    index.add(among)
    wanted = max(min(k + (right is None), len(index)), 1)
    scores, ids = [], []
    with bar(len(left), progress=progress, what="comparing") as shown:
        for low in range(0, len(left), AT_ONCE):
            part = index.search(left[low : low + AT_ONCE], wanted)
            scores.append(part.scores)
            ids.append(part.ids)
            shown.update(len(part.ids))
    if not ids:
        return Candidates(np.empty(0), np.empty(0), np.empty(0))
    found, near = np.concatenate(ids), np.concatenate(scores)
    rows = np.broadcast_to(np.arange(len(found))[:, None], found.shape)
    kept = found >= 0
    if right is None:
        kept &= found != rows
        kept &= np.cumsum(kept, axis=1) <= k  # the row itself need not be first among its equals, or found at all
        return Candidates.within(rows[kept], found[kept], near[kept])
    return Candidates(rows[kept], found[kept], near[kept])
