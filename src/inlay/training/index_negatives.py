"""Candidates that an index finds for queries, less what answers them: hard negatives of a stage that comes after it.

`mining.mine` looks at texts through an encoder and an exact scan. A re-ranker has to be trained on the mistakes of the
index in front of it, whatever that is, and on rows that exist already; so this works on numbers of rows.

Source: BiDR (arXiv 2201.05409), whose dense stage learns from candidates of the quantised rows, not of dense ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.training.locality_batches import Positives

__all__ = ["mined_lists"]

QUERIES_AT_ONCE = 1024


def mined_lists(
    index: Any, queries: np.ndarray, positives: Positives, *, ranks: tuple[int, int] = (0, 200)
) -> np.ndarray:
    """Documents int64 [queries, up to ranks[1] − ranks[0]] that the index finds, best first, without positives.

    Args:
        index: an `Index` over the documents, in the order of their numbers.
        queries: rows [positives.queries, dim] as the index takes them.
        positives: which documents answer which query.
        ranks: looked at, best first, from 0, the upper end excluded; positives take a rank, as in the paper.

    Returns:
        Lists with -1 behind their last document.
    """
    low, high = ranks
    if not 0 <= low < high:
        raise BadInput(f"ranks must be (from, to) with 0 ≤ from < to, got {ranks}")
    if len(queries) != positives.queries:
        raise BadInput(f"there are {len(queries)} query rows and positives of {positives.queries} queries")
    lists = np.full((len(queries), high - low), -1, dtype=np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = np.asarray(index.search(queries[start : start + QUERIES_AT_ONCE], high).ids)[:, low:]
        if part.size and part.max() >= positives.documents:
            raise BadInput(
                f"the index found row {int(part.max())}, but there are {positives.documents} documents; take the "
                "index over the documents that the positives number"
            )
        rows = np.arange(start, start + len(part))
        keys = part + rows[:, None] * positives.documents
        answers = np.repeat(rows, np.diff(positives.starts)[rows])
        own = positives.answers[positives.starts[start] : positives.starts[start + len(part)]]
        part = np.where(np.isin(keys, own + answers * positives.documents), -1, part)
        order = np.argsort(part < 0, axis=1, kind="stable")
        lists[start : start + len(part)] = np.take_along_axis(part, order, axis=1)
    return lists
