"""Fusion of ranked lists from different spaces into one.

Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009) reads only ranks; the convex combination (Bruch, Gai and
Ingber 2023) reads scores, brought to a common scale by the best of each list; surprisal reads how far a score stands
out of what the query scores with the rest of the collection. Which of them a collection uses was chosen on judged
training queries:

* `benchmarks/fusion.py`: a weak list drags a strong one down with its ranks (NUMEN beside BM25 loses up to 6 points of
  nDCG@10), where a convex share of 0.15 gains on every set. So an encoder may say what it is worth (`hybrid_share`).
* `benchmarks/fusion_brought.py`: of vectors that nobody has said anything about, from hashes to transformers, each
  query's scores tell how much they know. Surprisal loses least where they know nothing, and gains where they do.
  An encoder that is known may weigh more (`hybrid_surprise`): the one in the box does.
* Ranks are what is left where there is no collection to compare with: vectors made on demand, of the few candidates
  that one query has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

__all__ = ["Found", "Fused", "convex", "fuse", "reciprocal_rank", "surprisal", "union", "weight_of"]

WEIGHT = 0.4  # of the surprisal of vectors of unknown worth

Found: TypeAlias = tuple[np.ndarray, np.ndarray]  # ids int64 and scores float32, best first


class Fused(NamedTuple):
    """One list from several: `ids` int64 and `scores` float32, best first, and what each list added to the scores."""

    ids: np.ndarray
    scores: np.ndarray
    parts: dict[str, np.ndarray]


def _sum(parts: Mapping[str, Found]) -> Fused:
    """Add up what the lists give to each id; an id that a list lacks gets nothing from it."""
    ids = union(list(parts.values()))
    given = {}
    for name, (of, amounts) in parts.items():
        given[name] = np.zeros(len(ids), dtype=np.float32)
        given[name][np.searchsorted(ids, of)] = amounts
    total = np.zeros(len(ids), dtype=np.float32)
    for amounts in given.values():
        total += amounts
    order = np.lexsort((ids, -total))
    return Fused(ids[order], total[order], {name: amounts[order] for name, amounts in given.items()})


def reciprocal_rank(lists: Mapping[str, Found], *, k: int = 60, weights: Mapping[str, float] | None = None) -> Fused:
    """Sum of weight / (k + rank) over the lists that hold an item, ranks from 1.

    Args:
        lists: name of the space -> its ids and scores, best first.
        k: damping of the first ranks.
        weights: per space; 1 where absent.
    """
    return _sum(
        {
            name: (ids, (1.0 if weights is None else weights.get(name, 1.0)) / (k + 1.0 + np.arange(len(ids))))
            for name, (ids, _) in lists.items()
        }
    )


def convex(
    lists: Mapping[str, Found], *, weights: Mapping[str, float], floors: Mapping[str, float] | None = None
) -> Fused:
    """Weighted sum of scores, each list scaled to [0, 1] by its best score and a floor.

    Args:
        lists: name of the space -> its ids and scores, best first.
        weights: per space; they are normalised to sum to 1 over the lists present.
        floors: per space, the score that becomes 0: the theoretical minimum where there is one (0 for BM25);
            where absent, the lowest score of the list. An item that a list lacks gets that list's 0.
    """
    present = {name: found for name, found in lists.items() if len(found[0])}
    total = sum(weights.get(name, 0.0) for name in present) or 1.0
    parts = {}
    for name, (ids, scores) in present.items():
        low = (floors or {}).get(name, float(scores[-1]))
        span = float(scores[0]) - low
        scaled = np.clip((scores - low) / span, 0, None) if span > 0 else np.ones(len(scores), dtype=np.float32)
        parts[name] = ids, scaled * (weights.get(name, 0.0) / total)
    return _sum(parts)


def surprisal(
    lists: Mapping[str, Found], *, lexical: str, dense: str, background: tuple[float, float], weight: float = WEIGHT
) -> Fused:
    """BM25 plus the surprise at a dense score: weight · −ln P(a score by chance ≥ this one).

    Chance is the normal distribution with the mean and deviation of the query's scores over the collection. Both terms
    are then of one kind, which is why they can be added as they are: idf, of which BM25 is made, is about −ln P(a
    document by chance has the term). The best of a list of noise is barely surprising, ln(documents) at most, however
    near it lies to the others; what a good model finds stands out by several deviations more.

    Args:
        lists: both, best first.
        lexical: name of the list of BM25 scores. An item that it lacks gets 0.
        dense: name of the other list. An item that it lacks gets what the list's last one got.
        background: mean and standard deviation of the dense scores of this query over the collection.
        weight: of the surprise.
    """
    parts = dict(lists)
    ids, scores = lists[dense]
    if len(ids):
        mean, deviation = background
        z = (scores.astype(np.float64) - mean) / deviation if deviation > 0 else np.zeros(len(scores))
        surprise = np.array([_surprise(value) for value in z.tolist()])
        parts[dense] = ids, weight * (surprise - surprise[-1])
    return _sum({name: parts[name] for name in (lexical, dense) if name in parts})


def _surprise(z: float) -> float:
    """−ln P(a standard normal variable ≥ z), in nats."""
    if z < 25:
        return -math.log(math.erfc(z / math.sqrt(2)) / 2)
    return z * z / 2 + math.log(z * math.sqrt(2 * math.pi))  # erfc is about to underflow


def weight_of(encoder: Any) -> float | None:
    """What the surprisal of an encoder's scores weighs; None where it wants to be fused by its share instead."""
    share, weight = getattr(encoder, "hybrid_share", None), getattr(encoder, "hybrid_surprise", None)
    return weight if weight is not None or share is not None else WEIGHT


def fuse(
    lexical: str,
    dense: str,
    lists: Mapping[str, Found],
    encoder: Any = None,
    background: tuple[float, float] | None = None,
) -> Fused:
    """The fusion of a collection: as the encoder says that it suits it, otherwise by surprisal.

    Args:
        lexical: name of the lexical list.
        dense: name of the other one.
        lists: both.
        encoder: may carry `hybrid_surprise`, the weight of its surprisal; `hybrid_share`, its weight in [0, 1] in a
            convex combination; and `hybrid_floor`, the score that counts as nothing there.
        background: see `surprisal`; without it, convex or, where lists are of unknown worth, by ranks.
    """
    share, weight = getattr(encoder, "hybrid_share", None), weight_of(encoder)
    if background is not None and weight is not None:
        return surprisal(lists, lexical=lexical, dense=dense, background=background, weight=weight)
    if share is None:
        return reciprocal_rank(lists)
    floors = {lexical: 0.0}
    if getattr(encoder, "hybrid_floor", None) is not None:
        floors[dense] = encoder.hybrid_floor
    return convex(lists, weights={lexical: 1 - share, dense: share}, floors=floors)


def union(lists: Sequence[Found]) -> np.ndarray:
    """Every id that some list holds, ascending."""
    return np.unique(np.concatenate([ids for ids, _ in lists])) if lists else np.empty(0, dtype=np.int64)
