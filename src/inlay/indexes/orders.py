"""In which order rows go into a graph: those whose neighbourhoods spread in many directions first.

A graph built row by row remembers the order: early rows are linked when there is little to link to, and become the
long edges that a search travels by. Rows of high local intrinsic dimension are the hard ones to reach; inserted first
(`lid-desc`) they are found more often than inserted last (`lid-asc`). The engine must insert with one thread, or the
order is scrambled.

Source: Elliott and Clark, The Impacts of Data, Ordering, and Intrinsic Dimensionality on Recall in HNSW
(arXiv 2405.17813, ICTIR 2024).
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.local_dimension import local_dimension
from inlay.types import Metric

__all__ = ["Order", "insertion_order"]

Order: TypeAlias = Literal["given", "lid-desc", "lid-asc", "random"]


def insertion_order(
    rows: np.ndarray,
    order: Order = "lid-desc",
    seed: int = 0,
    *,
    k: int = 100,
    metric: Metric = "cosine",
    among: int = 40_000,
) -> np.ndarray:
    """Numbers of rows in the order in which they should be inserted, int64 [n].

    Args:
        rows: [n, dim].
        order: `given` (as they are), `random`, or by local intrinsic dimension: `lid-desc` highest first, `lid-asc`
            lowest first. Rows of equal dimension stay as given.
        seed: of `random`, and of the sample below.
        k: neighbours the dimension is estimated from; all others where there are fewer.
        metric: what the rows are searched by.
        among: neighbours are looked for among at most so many rows, drawn at random: every row's dimension among all
            of a million rows would take longer than the graph. The estimate is then that of a coarser scale.
    """
    if order not in get_args(Order):
        raise BadInput(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")
    if not isinstance(among, int | np.integer) or isinstance(among, bool) or among < 3:
        raise BadInput(f"among must be a number of rows, at least 3, got {among!r}")
    rows = np.asarray(rows)
    count = len(rows)
    random = np.random.default_rng(seed)
    if order == "random":
        return random.permutation(count)
    if order == "given" or count < 3:
        return np.arange(count)
    few = np.sort(random.choice(count, among, replace=False)) if count > among else None
    dimension = local_dimension(rows, min(k, min(count, among) - 1), metric=metric, among=few)
    return np.argsort(-dimension if order == "lid-desc" else dimension, kind="stable")
