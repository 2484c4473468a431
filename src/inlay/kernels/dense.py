"""Scores of dense rows, and the nearest of them: exact, in one pass over the rows' bytes.

Rows are float32, float16, or int8 with one float32 scale a row. They are widened to float32 as they are read and a
query stays float32, so the only error is that of the stored row. `l2` is summed from differences; the usual
|q|² − 2q·x + |x|² is faster in a batch but loses its digits where rows lie far from the origin.
"""

from __future__ import annotations

import numpy as np

from inlay.errors import BadInput
from inlay.kernels import compiled
from inlay.kernels.topk import TopK
from inlay.types import Metric, Neighbours

__all__ = ["nearest", "normalise", "score"]

SCORES_AT_ONCE = 1 << 17  # 512 KB: a block of scores is still in L2 when the threshold looks at it
QUERIES_AT_ONCE = 256
VALUES_AT_ONCE = 1 << 20  # numpy form: 4 MB of rows widened to float32
_NO_SCALES = np.empty(0, dtype=np.float32)
_NO_SCALES.flags.writeable = False


def normalise(rows: np.ndarray) -> np.ndarray:
    """Rows [n, dim] at length 1 as float32; zero rows stay zero."""
    rows = np.asarray(rows, dtype=np.float32)
    # Dividing by the largest value first keeps squares of huge or tiny values inside float32.
    peak = np.abs(rows).max(axis=1, initial=0, keepdims=True)
    rows = rows / np.where(peak > 0, peak, 1)
    length = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    rows /= np.where(length > 0, length, 1)
    return rows


def score(
    queries: np.ndarray,
    rows: np.ndarray,
    *,
    scales: np.ndarray | None = None,
    metric: Metric = "dot",
    ids: np.ndarray | None = None,
) -> np.ndarray:
    """Every score, higher is nearer: float32 [q, n].

    Args:
        queries: float32 [q, dim].
        rows: float32, float16 or int8 [n, dim].
        scales: float32 [n], what one step of each int8 row is worth.
        metric: `dot`; `cosine`, the same (rows and queries are expected at length 1); or `l2`, the negated square.
        ids: int64 [m], score only these rows (then the answer is [q, m]); ascending ids read memory in order.
    """
    queries, rows, scales = _checked(queries, rows, scales)
    count = len(rows) if ids is None else len(ids)
    fast = _fast(queries, rows, count)
    ids = None if ids is None else np.ascontiguousarray(ids, dtype=np.int64)
    out = np.empty((len(queries), count), dtype=np.float32)
    for start, stop in _blocks(queries, rows, count, fast):
        out[:, start:stop] = _score(queries, rows, scales, metric, ids, start, stop, fast)
    return out


def nearest(
    queries: np.ndarray,
    rows: np.ndarray,
    k: int,
    *,
    scales: np.ndarray | None = None,
    metric: Metric = "dot",
    allow: np.ndarray | None = None,
) -> Neighbours:
    """The k best rows of each query: an exact scan that holds no more than a block of scores.

    Args:
        queries: float32 [q, dim].
        rows: float32, float16 or int8 [n, dim].
        k: how many; beyond n the answer is padded with id -1 and score -inf.
        scales: float32 [n], what one step of each int8 row is worth.
        metric: as in `score`.
        allow: bool [n], the rows that may be returned; the others are not read.
    """
    queries, rows, scales = _checked(queries, rows, scales)
    # A mask becomes a sorted list of ids once; after that only allowed rows exist.
    ids = None if allow is None or allow.all() else np.flatnonzero(allow)
    count = len(rows) if ids is None else len(ids)
    fast = _fast(queries, rows, count)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for first in range(0, len(queries) if count else 0, QUERIES_AT_ONCE):
        asked = queries[first : first + QUERIES_AT_ONCE]
        best = TopK(len(asked), min(k, count), fast=fast)
        for start, stop in _blocks(asked, rows, count, fast):
            best.offer(_score(asked, rows, scales, metric, ids, start, stop, fast), start)
        part = best.result()
        width = part.ids.shape[1]
        scores[first : first + len(asked), :width] = part.scores
        found[first : first + len(asked), :width] = (
            part.ids if ids is None else np.where(part.ids < 0, -1, ids[part.ids])
        )
    return Neighbours(scores, found)


def _checked(
    queries: np.ndarray, rows: np.ndarray, scales: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    if queries.ndim != 2 or rows.ndim != 2 or queries.shape[1] != rows.shape[1]:
        raise BadInput(f"queries {queries.shape} and rows {rows.shape} must be [q, dim] and [n, dim]")
    if rows.dtype not in (np.float32, np.float16, np.int8):
        raise BadInput(f"rows are float32, float16 or int8, got {rows.dtype}")
    if (rows.dtype == np.int8) != (scales is not None):
        raise BadInput("int8 rows, and only they, come with scales")
    if scales is not None:
        if len(scales) != len(rows):
            raise BadInput(f"{len(rows)} int8 rows need as many scales, got {len(scales)}")
        scales = _plain(np.asarray(scales, dtype=np.float32))
    return np.ascontiguousarray(queries, dtype=np.float32), _plain(rows), scales


def _plain(array: np.ndarray) -> np.ndarray:
    """A contiguous read-only view: numba does not know `np.memmap`, and takes read-only arrays for another type."""
    view = np.ascontiguousarray(array).view(np.ndarray)
    view.flags.writeable = False
    return view


def _fast(queries: np.ndarray, rows: np.ndarray, count: int) -> bool:
    if not compiled(len(queries) * count * rows.shape[1]):
        return False
    from inlay.kernels.dense_numba import converts_halves

    return rows.dtype != np.float16 or converts_halves()


def _blocks(queries: np.ndarray, rows: np.ndarray, count: int, fast: bool) -> list[tuple[int, int]]:
    if fast:
        step = max(256, SCORES_AT_ONCE // max(1, len(queries)))
    else:
        step = max(256, VALUES_AT_ONCE // max(1, rows.shape[1]))
    return [(start, min(start + step, count)) for start in range(0, count, step)]


def _score(
    queries: np.ndarray,
    rows: np.ndarray,
    scales: np.ndarray | None,
    metric: Metric,
    ids: np.ndarray | None,
    start: int,
    stop: int,
    fast: bool,
) -> np.ndarray:
    """Scores [q, stop - start] of the rows from `start`, or of those that `ids[start:stop]` names."""
    if ids is None:
        rows, scales = rows[start:stop], None if scales is None else scales[start:stop]
    else:
        ids = ids[start:stop]
    if not fast:
        return _score_numpy(queries, rows, scales, metric, ids)
    from inlay.kernels.dense_numba import LANES, one, tile

    if LANES < 16 and rows.dtype == np.float32 and metric != "l2" and ids is None and len(queries) > 1:
        # Sums of a tile that fits 16 registers are too few to keep pace with a matrix product; in 32 they are not.
        return queries @ rows.T
    out = np.empty((len(queries), len(rows) if ids is None else len(ids)), dtype=np.float32)
    bits = rows.view(np.uint16) if rows.dtype == np.float16 else rows
    step = _NO_SCALES if scales is None else scales
    if len(queries) == 1:
        one(queries[0], bits, step, ids, metric == "l2", out[0])
    else:
        tile(queries, bits, step, ids, metric == "l2", out)
    return out


def _score_numpy(
    queries: np.ndarray, rows: np.ndarray, scales: np.ndarray | None, metric: Metric, ids: np.ndarray | None
) -> np.ndarray:
    if ids is not None:
        rows, scales = rows[ids], None if scales is None else scales[ids]
    rows = rows.astype(np.float32, copy=False)
    if scales is not None:
        rows = rows * scales[:, None]
    if metric != "l2":
        # One query: a matrix-vector product reads the rows at memory speed, which the matrix product does not.
        return (rows @ queries[0])[None] if len(queries) == 1 else queries @ rows.T
    out = np.empty((len(queries), len(rows)), dtype=np.float32)
    for query, line in zip(queries, out):
        difference = rows - query
        np.einsum("nd,nd->n", difference, difference, out=line)
    return -out
