"""Whether two encoders find the same: overlap and order of their lists of results.

`jaccard` is |S ∩ S'| / |S ∪ S'| of two lists of k. `rank_similarity` looks at the order of what both hold,

    RankSim = 1/H(m) · Σ_{j ∈ S ∩ S'} 2 / ((1 + |r(j) − r'(j)|) (r(j) + r'(j))),   m = |S ∩ S'|,   H(m) = Σ_{i ≤ m} 1/i

with ranks from 1; it is 1 for equal lists and 0 for lists that share nothing. H(m) divides by what m shared results
could reach at best, so two lists that share one result, at the first rank of both, get 1 too: read it beside Jaccard.

Small k is where encoders differ most. A query that is itself among the documents finds itself first whatever the
encoder: say so by `own`, and it is left out.

Source: Caspari, Dastidar, Zerhoudi, Mitrović and Granitzer, Beyond Benchmarks: Evaluating Embedding Model Similarity
for Retrieval Augmented Generation (arXiv 2407.08275).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.intrinsic_dimension import usable_rows
from inlay.indexes.flat import checked_k
from inlay.kernels.dense import nearest, normalise

__all__ = ["jaccard", "rank_similarity", "result_lists"]

PAIRS_AT_ONCE = 1 << 23


def result_lists(queries: np.ndarray, rows: np.ndarray, k: int, *, own: np.ndarray | None = None) -> np.ndarray:
    """The k nearest rows of each query by cosine, best first, int64 [q, k]: exact, −1 where there are no more.

    Args:
        queries: [q, dim].
        rows: [n, dim].
        k: length of the lists.
        own: int64 [q], the row that is the query itself and is left out; −1 for queries that are none.
    """
    rows = normalise(usable_rows(rows))
    queries = normalise(usable_rows(queries, what="query row"))
    if queries.shape[1] != rows.shape[1]:
        raise BadInput(f"queries of {queries.shape[1]} dimensions, and rows of {rows.shape[1]}: use one encoder")
    k = checked_k(k)
    if own is None:
        return nearest(queries, rows, k).ids
    own = np.asarray(own)
    if own.shape != (len(queries),) or own.dtype.kind not in "iu" or (own >= len(rows)).any() or (own < -1).any():
        raise BadInput(
            f"own must be a row number, or −1, for each of {len(queries)} queries, from −1 to {len(rows) - 1}"
        )
    ids = nearest(queries, rows, k + 1).ids
    # What is the query itself goes to the end, and so does the last where there is none.
    drop = (ids == own[:, None]) & (own[:, None] >= 0)
    drop[~drop.any(axis=1), -1] = True
    return np.take_along_axis(ids, np.argsort(drop, axis=1, kind="stable")[:, :k], axis=1)


def jaccard(a: np.ndarray, b: np.ndarray, k: int | None = None) -> np.ndarray:
    """|S ∩ S'| / |S ∪ S'| of the first k of two lists for each query, float64 [q]; 0 where both are empty.

    Args:
        a: int64 [q, at least k], ids of results, each once; −1 for none.
        b: the same of another encoder.
        k: how much of the lists counts; all by default.
    """
    a, b = _checked(a, b, k)
    shared = np.zeros(len(a))
    for part, same in _matches(a, b):
        shared[part] = same.sum(axis=(1, 2))
    either = (a >= 0).sum(axis=1) + (b >= 0).sum(axis=1) - shared
    return np.asarray(shared / np.maximum(either, 1))


def rank_similarity(a: np.ndarray, b: np.ndarray, k: int | None = None) -> np.ndarray:
    """RankSim of the first k of two lists for each query, float64 [q].

    Args:
        a: as in `jaccard`.
        b: as in `jaccard`.
        k: as in `jaccard`.
    """
    a, b = _checked(a, b, k)
    rank = np.arange(1, a.shape[1] + 1)
    weight = 2 / ((1 + np.abs(rank[:, None] - rank)) * (rank[:, None] + rank))
    harmonic = np.concatenate([[1.0], np.cumsum(1 / rank)])  # nothing shared is divided by 1, and stays 0
    found = np.zeros(len(a))
    for part, same in _matches(a, b):
        found[part] = np.einsum("qij,ij->q", same, weight) / harmonic[same.sum(axis=(1, 2))]
    return found


def _matches(a: np.ndarray, b: np.ndarray) -> Any:
    step = max(1, PAIRS_AT_ONCE // max(1, a.shape[1] ** 2))
    for first in range(0, len(a), step):
        part = slice(first, first + step)
        yield part, (a[part, :, None] == b[part, None, :]) & (a[part, :, None] >= 0)


def _checked(a: Any, b: Any, k: int | None) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or a.dtype.kind not in "iu" or b.dtype.kind not in "iu":
        raise BadInput(
            f"expected two lists of ids [queries, k] for the same queries, got {a.dtype} {list(a.shape)} and "
            f"{b.dtype} {list(b.shape)}"
        )
    k = min(a.shape[1], b.shape[1]) if k is None else checked_k(k)
    if not len(a) or k < 1 or k > min(a.shape[1], b.shape[1]):
        raise BadInput(f"the first {k} of lists of {a.shape[1]} and {b.shape[1]} results of {len(a)} queries: ask more")
    a, b = a[:, :k], b[:, :k]
    for lists in (a, b):
        ordered = np.sort(lists, axis=1)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            raise BadInput("a list names a result twice: each may stand once in it")
    return a, b
