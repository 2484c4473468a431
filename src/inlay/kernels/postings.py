"""Posting lists: rows to columns, and the exact k best rows of a sparse query.

A column store has `indptr` int64 [columns + 1], `rows` int32 [nnz] ascending within a column, and `impacts`
float32 [nnz]. The score of a row is the sum, over the query's columns, of weight · impact, in float32 and in the
order in which the query lists its columns: so scores do not depend on which form computes them, bit for bit.

A row is found if some weight · impact of it is not zero. Of equal scores the lower row is better.
"""

from __future__ import annotations

import numpy as np

from inlay.kernels import compiled

__all__ = ["top_rows", "transpose"]


def transpose(
    indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CSR rows to a column store: (indptr int64 [n_columns + 1], rows int32 [nnz], values [nnz])."""
    if compiled(len(columns)):
        from inlay.kernels.postings_numba import transpose as transpose_compiled

        return transpose_compiled(indptr, columns, values, n_columns)
    return _transpose_plain(indptr, columns, values, n_columns)


def _transpose_plain(
    indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, n_columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # numpy's stable sort is a radix sort for 16-bit integers only, so columns are sorted a digit at a time.
    order = np.argsort((columns & 0xFFFF).astype(np.uint16), kind="stable")
    if n_columns > 0x10000:
        order = order[np.argsort((columns[order] >> 16).astype(np.uint16), kind="stable")]
    row = np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))
    starts = np.zeros(n_columns + 1, dtype=np.int64)
    np.cumsum(np.bincount(columns, minlength=n_columns), out=starts[1:])
    return starts, row[order], values[order]


def top_rows(
    indptr: np.ndarray,
    rows: np.ndarray,
    impacts: np.ndarray,
    highest: np.ndarray,
    lowest: np.ndarray,
    ready: np.ndarray,
    n_rows: int,
    offsets: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    k: int,
    allow: np.ndarray | None = None,
    *,
    parallel: bool = False,
) -> tuple[np.ndarray, np.ndarray] | None:
    """The k best rows of each query.

    Args:
        indptr: int64 [columns + 1], column starts.
        rows: int32 [nnz], ascending within a column.
        impacts: float32 [nnz].
        highest: float32 [columns], the largest impact of each (0 of none).
        lowest: float32 [columns], the smallest.
        ready: bool [columns], whose impacts and bounds are there.
        n_rows: number of rows.
        offsets: int64 [queries + 1]; query q has terms `offsets[q]:offsets[q + 1]`.
        columns: int64 [terms]; numbers that are no column match nothing.
        weights: float32 [terms], finite.
        k: how many rows.
        allow: bool [n_rows], the rows that may be found; None for all.
        parallel: spread queries over threads (compiled form only).

    Returns:
        (scores float32 [queries, k] descending, rows int64 [queries, k]), padded with −inf and −1; or None, if a
        column that is asked for is not ready.
    """
    if compiled(0) or compiled(_work(indptr, columns)):
        from inlay.kernels import postings_numba

        top = postings_numba.top_rows_parallel if parallel else postings_numba.top_rows
        done, scores, ids = top(
            indptr, rows, impacts, highest, lowest, ready, n_rows, offsets, columns, weights, k,
            _EVERY if allow is None else allow,
        )  # fmt: skip
        return (scores, ids) if done else None
    use = (columns >= 0) & (columns < len(ready)) & (weights != 0)
    if not ready[columns[use]].all():
        return None
    planned = _planned(offsets, columns, weights, use, highest, lowest)
    return _top_plain(indptr, rows, impacts, n_rows, *planned, k, allow)


_EVERY = np.zeros(0, dtype=np.bool_)


def _work(indptr: np.ndarray, columns: np.ndarray) -> int:
    columns = columns[(columns >= 0) & (columns < len(indptr) - 1)]
    return int((indptr[columns + 1] - indptr[columns]).sum())


def _planned(
    offsets: np.ndarray, columns: np.ndarray, weights: np.ndarray, use: np.ndarray, highest: np.ndarray,
    lowest: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """(offsets, columns, weights, signed): terms that matter, those that may add most first.

    `signed` bool [queries]: whether some term may add less than nothing.
    """
    n = len(offsets) - 1
    query = np.repeat(np.arange(n), np.diff(offsets))[use]
    columns, weights = columns[use], weights[use]
    one, other = weights * highest[columns], weights * lowest[columns]
    signed = np.zeros(n, dtype=np.bool_)
    signed[query[np.minimum(one, other) < 0]] = True
    order = np.lexsort((-np.maximum(np.maximum(one, other), np.float32(0)), query))
    offsets = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(query, minlength=n), out=offsets[1:])
    return offsets, columns[order], weights[order], signed


def _top_plain(
    indptr: np.ndarray,
    rows: np.ndarray,
    impacts: np.ndarray,
    n_rows: int,
    offsets: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    signed: np.ndarray,
    k: int,
    allow: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    n = len(offsets) - 1
    best = np.full((n, k), -np.inf, dtype=np.float32)
    ids = np.full((n, k), -1, dtype=np.int64)
    for q in range(n):
        scores = np.zeros(n_rows, dtype=np.float32)
        touched = np.zeros(n_rows, dtype=np.bool_) if signed[q] else None
        for t in range(offsets[q], offsets[q + 1]):
            span = slice(indptr[columns[t]], indptr[columns[t] + 1])
            added = weights[t] * impacts[span]
            scores[rows[span]] += added
            if touched is not None:
                touched[rows[span]] |= added != 0
        found = np.flatnonzero(scores > 0 if touched is None else touched)
        if allow is not None:
            found = found[allow[found]]
        chosen = _best(scores[found], k)
        best[q, : len(chosen)] = scores[found[chosen]]
        ids[q, : len(chosen)] = found[chosen]
    return best, ids


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k highest scores, best first; of equal ones the earlier."""
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        above = np.flatnonzero(scores > least)
        chosen = np.concatenate([above, np.flatnonzero(scores == least)[: k - len(above)]])
    else:
        chosen = np.arange(len(scores))
    return chosen[np.lexsort((chosen, -scores[chosen]))]
