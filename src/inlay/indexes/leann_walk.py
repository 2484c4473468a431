"""One query on its way through the graph of a `Leann`, by two scores.

Codes say roughly how near every row is that was seen; only the most promising share of them is encoded again, in
batches, and scored exactly. What was passed over stays in the queue, and may be taken later.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from inlay.indexes.leann import Leann

__all__ = ["Walk", "walked"]

LEAST_PROMOTED = 4


@dataclass
class Walk:
    """What one search cost: rows seen by their codes, rows encoded, rows that had been kept, calls to the encoder."""

    seen: int = 0
    encoded: int = 0
    cached: int = 0
    calls: int = 0


def walked(
    index: Leann,
    query: np.ndarray,
    ef: int,
    *,
    promote: float,
    batch: int,
    walk: Walk,
    allow: np.ndarray | None,
) -> tuple[list[tuple[float, int]], dict[int, np.ndarray]]:
    """The rows found for a query's row [dim], best first, and all rows that were made on the way.

    Args:
        index: one that holds rows.
        query: its row.
        ef: exactly scored rows that are kept.
        promote: share of what was seen that is encoded.
        batch: rows encoded at once.
        walk: counts what it costs.
        allow: bool [n], the rows that may be found.
    """
    rough = index.codec.scorer(query)
    made: dict[int, np.ndarray] = {}
    seen = {index._entry}
    ahead: list[tuple[float, int]] = []  # exactly scored, not yet passed on from: a heap, nearest first
    best: list[tuple[float, int]] = []  # exactly scored, the ef nearest that may be found: a heap, farthest first
    queue: list[tuple[float, int]] = []  # all that was seen, in order of the codes' scores, nearest first

    def score(rows: list[int]) -> None:
        before = index.rows.encoded, index.rows.cached
        vectors = index.rows.fetch(rows)
        walk.encoded += index.rows.encoded - before[0]
        walk.cached += index.rows.cached - before[1]
        walk.calls += 1
        for row, vector, near in zip(rows, vectors, (vectors @ query).tolist()):
            made[row] = vector
            heapq.heappush(ahead, (-near, row))
            if row not in index._dead and (allow is None or allow[row]):
                heapq.heappush(best, (near, -row))
                if len(best) > ef:
                    heapq.heappop(best)

    score([index._entry])
    while ahead:
        wanted: dict[int, None] = {}
        while ahead and len(wanted) < batch:
            near, row = ahead[0]
            if len(best) >= ef and -near < best[0][0]:
                break
            heapq.heappop(ahead)
            fresh = [other for other in index._links.of(row).tolist() if other not in seen]
            if fresh:
                seen.update(fresh)
                for other, roughly in zip(fresh, rough(index._codes[fresh]).tolist()):
                    insort(queue, (-roughly, other))
            head = max(LEAST_PROMOTED, math.ceil(promote * len(queue)))
            wanted.update((other, None) for _, other in queue[:head] if other not in made)
        if not wanted:
            break
        score(list(wanted))
    walk.seen += len(seen)
    found = [(near, -row) for near, row in best]
    return sorted(found, key=lambda item: (-item[0], item[1])), made
