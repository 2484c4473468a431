"""Post-filtering: search as if there were no filter, and drop what does not pass it.

Enough must be asked for that k are left: with a share s of rows that pass, 1.5 · k / s at first, and twice as many
whenever fewer than k were left. A fixed number would come back short where a filter and a query do not go together,
without a word. Where most rows pass, nothing is faster; where few do, nearly all rows are searched.

Source: the post-filter of "Benchmarking Filtered Approximate Nearest Neighbor Search Algorithms on Transformer-based
Embedding Vectors" (arXiv 2507.21989).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.flat import checked_k
from inlay.types import Neighbours

__all__ = ["MARGIN", "post_filtered"]

MARGIN = 1.5  # how many times k/s are asked for at first

Search = Callable[[np.ndarray, int], Neighbours]


def post_filtered(
    search: Search, queries: np.ndarray, k: int, allow: np.ndarray, *, margin: float = MARGIN
) -> Neighbours:
    """The k nearest rows of each query that are allowed, of as many as `search` must find to get them.

    Args:
        search: (queries [q, dim], number) → `Neighbours` among all rows.
        queries: float32 [q, dim].
        k: how many; where fewer are allowed, or `search` finds fewer even among all rows, the rest is id -1.
        allow: bool [n], the rows that may be returned.
        margin: how many times k/s are asked for at first.
    """
    k, allow = checked_k(k), np.asarray(allow)
    if allow.dtype != np.bool_ or allow.ndim != 1:
        raise BadInput(f"allow must be bool [n], one a row, got {allow.dtype} {list(allow.shape)}")
    if not margin > 0 or not math.isfinite(margin):
        raise BadInput(f"margin must be a positive number, got {margin!r}")
    matches, count = int(np.count_nonzero(allow)), len(allow)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int64)
    waiting = np.arange(len(queries) if matches else 0)
    wide = min(count, max(k, math.ceil(margin * k * count / max(1, matches))))
    while len(waiting):
        found = search(queries[waiting], wide)
        passes = (found.ids >= 0) & allow[found.ids]
        first = np.argsort(~passes, axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(passes, first, axis=1)
        width = kept.shape[1]
        ids[waiting, :width] = np.where(kept, np.take_along_axis(found.ids, first, axis=1), -1)
        scores[waiting, :width] = np.where(kept, np.take_along_axis(found.scores, first, axis=1), -np.inf)
        if wide == count:
            break
        waiting = waiting[kept.sum(axis=1) < min(k, matches)]
        wide = min(count, 2 * wide)
    return Neighbours(scores, ids)
