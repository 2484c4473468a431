"""Local intrinsic dimension: in how many directions the neighbours of a row spread, whatever the width of the row.

Where the distances r_1 ≤ … ≤ r_K to the K nearest rows grow like a ball's in m dimensions, the share of them below r
is (r / r_K)^m, and the most likely m is

    LID = −( (1/K) Σ_i ln(r_i / r_K) )^(−1)

The term of i = K is 0; `last=False` leaves it out of the mean too (a divisor of K − 1). Neighbours at distance 0 are
duplicates: their logarithm is −∞, so they are skipped, and the mean runs over the others. A row with fewer than two
others at a distance gets 0, the limit for duplicates that are told apart less and less.

Distances are exact: candidates come from a matrix product, and are measured again by differences, because a product
in float32 puts a duplicate at 3e-4 rather than at 0. Approximate neighbours would not do: they are wrong just where
the dimension is high.

Source: Amsaleg et al., Estimating Local Intrinsic Dimensionality (KDD 2015), as used by Elliott and Clark, The Impacts
of Data, Ordering, and Intrinsic Dimensionality on Recall in HNSW (arXiv 2405.17813).
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.flat import checked_rows
from inlay.kernels.dense import normalise
from inlay.types import Metric

__all__ = ["dimension_of", "local_dimension", "near_distances"]

SCORES_AT_ONCE = 1 << 23  # 32 MB of float32
MARGIN = 8  # candidates beyond K that are measured again: a product ranks equals by its rounding
SAME = 1e-6  # of a row's length: what float32 cannot tell from 0


def local_dimension(
    rows: np.ndarray,
    k: int = 100,
    *,
    metric: Metric = "cosine",
    anchors: np.ndarray | None = None,
    among: np.ndarray | None = None,
    last: bool = True,
) -> np.ndarray:
    """Local intrinsic dimension of rows, float64 [anchors]; infinite where all neighbours are equally far.

    Args:
        rows: [n, dim].
        k: neighbours that are looked at, the row itself not among them.
        metric: what the rows are searched by. `cosine` is measured between rows brought to length 1, as a search
            does it; `l2` and `dot` between the rows as they are.
        anchors: numbers of the rows that are asked for; all by default.
        among: numbers of the rows that neighbours are looked for among; all by default.
        last: whether the K-th neighbour, whose term is 0, counts in the mean.
    """
    return dimension_of(near_distances(rows, k, metric=metric, anchors=anchors, among=among)[1], last=last)


def dimension_of(distances: np.ndarray, *, last: bool = True) -> np.ndarray:
    """The estimate from ascending distances [n, k]; 0 are skipped."""
    far = distances > 0
    counts = far.sum(axis=1)
    farthest = np.where(counts > 0, distances[:, -1], 1)[:, None]
    logs = np.log(np.where(far, distances, farthest) / farthest).sum(axis=1)
    found = np.full(len(distances), np.inf)
    np.divide(-(counts if last else counts - 1), logs, out=found, where=logs < 0)
    return np.where(counts < 2, 0.0, found)


def near_distances(
    rows: np.ndarray,
    k: int,
    *,
    metric: Metric = "cosine",
    anchors: np.ndarray | None = None,
    among: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other rows of some rows, by Euclidean distance: exact.

    Args:
        rows: [n, dim].
        k: how many; fewer than there are rows to look among.
        metric: as in `local_dimension`.
        anchors: numbers of the rows that are asked for; all by default.
        among: numbers of the rows to look among; all by default.

    Returns:
        (numbers of rows, int64 [anchors, k], distances, float64 [anchors, k], ascending, 0 for duplicates).
    """
    if metric not in get_args(Metric):
        raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    given = np.asarray(rows)
    if given.ndim != 2:
        raise BadInput(f"expected rows [n, dim], got an array of shape {list(given.shape)}")
    rows = checked_rows(given, given.shape[1])
    # Distances do not change when rows are moved together, and near the origin a product keeps its digits.
    rows = normalise(rows) if metric == "cosine" else rows - rows.mean(axis=0, dtype=np.float64).astype(np.float32)
    anchors, among = (_checked_ids(ids, len(rows), name) for ids, name in ((anchors, "anchors"), (among, "among")))
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or not 2 <= k < len(among):
        raise BadInput(
            f"k={k!r} neighbours of rows that have {max(len(among) - 1, 0)} others: "
            "k must be an integer from 2 to that number; give more rows or a lower k"
        )
    others = rows if len(among) == len(rows) else rows[among]
    halves = np.einsum("nd,nd->n", others, others) / 2
    place = np.full(len(rows), -1, dtype=np.int64)
    place[among] = np.arange(len(among))
    wanted = min(k + MARGIN, len(among) - 1)
    found = np.empty((len(anchors), k), dtype=np.int64)
    distances = np.empty((len(anchors), k))
    step = max(1, SCORES_AT_ONCE // max(len(among), wanted * rows.shape[1]))
    for first in range(0, len(anchors), step):
        part = anchors[first : first + step]
        scores = rows[part] @ others.T
        scores -= halves
        own = place[part]
        scores[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf  # by its number: duplicates of it stay
        near = np.argpartition(scores, len(among) - wanted, axis=1)[:, len(among) - wanted :]
        difference = others[near] - rows[part][:, None]
        lengths = np.sqrt(np.einsum("akd,akd->ak", difference, difference, dtype=np.float64))
        lengths[lengths <= SAME * np.sqrt(2 * halves[near])] = 0
        order = np.lexsort((near, lengths))[:, :k]
        found[first : first + step] = among[np.take_along_axis(near, order, axis=1)]
        distances[first : first + step] = np.take_along_axis(lengths, order, axis=1)
    return found, distances


def _checked_ids(ids: Any, count: int, name: str) -> np.ndarray:
    """Numbers of rows, int64; all of them for None."""
    if ids is None:
        return np.arange(count)
    ids = np.asarray(ids)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise BadInput(f"{name} must be numbers of rows [m], got {ids.dtype} {list(ids.shape)}")
    if len(ids) and not 0 <= ids.min() <= ids.max() < count:
        raise BadInput(f"{name} reach from {ids.min()} to {ids.max()}, the rows are 0 to {count - 1}")
    if len(np.unique(ids)) != len(ids):
        raise BadInput(f"{name} name a row twice")
    return ids.astype(np.int64)
