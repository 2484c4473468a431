"""Fusion of ranked lists from different spaces into one.

Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009) reads only ranks; the convex combination (Bruch, Gai and
Ingber 2023) reads scores, brought to a common scale first. Which one a collection uses, and with what weights, was
chosen by measurement: see `benchmarks/fusion.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

__all__ = ["Found", "Fusion", "convex", "reciprocal_rank"]

Found: TypeAlias = tuple[np.ndarray, np.ndarray]  # ids int64 and scores float32, best first
Fusion: TypeAlias = Callable[[Mapping[str, Found]], Found]


def _ranked(totals: dict[int, float]) -> Found:
    ids = np.fromiter(totals, dtype=np.int64, count=len(totals))
    scores = np.fromiter(totals.values(), dtype=np.float32, count=len(totals))
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]


def reciprocal_rank(lists: Mapping[str, Found], *, k: int = 60, weights: Mapping[str, float] | None = None) -> Found:
    """Sum of weight / (k + rank) over the lists that hold an item, ranks from 1.

    Args:
        lists: name of the space -> its ids and scores, best first.
        k: damping of the first ranks.
        weights: per space; 1 where absent.
    """
    totals: dict[int, float] = {}
    for name, (ids, _) in lists.items():
        weight = 1.0 if weights is None else weights.get(name, 1.0)
        for rank, item in enumerate(ids.tolist(), 1):
            totals[item] = totals.get(item, 0.0) + weight / (k + rank)
    return _ranked(totals)


def convex(
    lists: Mapping[str, Found],
    *,
    weights: Mapping[str, float],
    floors: Mapping[str, float] | None = None,
) -> Found:
    """Weighted sum of scores, each list scaled to [0, 1] by its best score and a floor.

    Args:
        lists: name of the space -> its ids and scores, best first.
        weights: per space; they are normalised to sum to 1 over the lists present.
        floors: per space, the score that becomes 0: the theoretical minimum where there is one (0 for BM25);
            where absent, the lowest score of the list. An item that a list lacks gets that list's 0.
    """
    present = {name: found for name, found in lists.items() if len(found[0])}
    total = sum(weights.get(name, 0.0) for name in present) or 1.0
    totals: dict[int, float] = {}
    for name, (ids, scores) in present.items():
        low = (floors or {}).get(name, float(scores[-1]))
        span = float(scores[0]) - low
        scaled = np.clip((scores - low) / span, 0, None) if span > 0 else np.ones(len(scores), dtype=np.float32)
        share = weights.get(name, 0.0) / total
        for item, score in zip(ids.tolist(), (scaled * share).tolist()):
            totals[item] = totals.get(item, 0.0) + score
    return _ranked(totals)


def union(lists: Sequence[Found]) -> np.ndarray:
    """Every id that some list holds, ascending."""
    return np.unique(np.concatenate([ids for ids, _ in lists])) if lists else np.empty(0, dtype=np.int64)
