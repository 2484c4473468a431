"""Intrinsic dimension of a set of rows: how many directions its points really spread in, from near distances alone.

`two_nn` looks at the two nearest neighbours of each row, at distances r1 ≤ r2. Where rows are spread evenly over so
small a ball, μ = r2 / r1 has the distribution function 1 − μ^(−ID), whatever the density, and two estimates follow:

- `mle`: (N − 1) / Σ ln μ, the most likely ID with N − 1 for N, which takes its bias away;
- `fit`: the slope of the line through the origin, by least squares, of −ln(1 − i/N) on ln μ of the i-th smallest. The
  largest tenth is dropped, for noise sits there.

`levina_bickel` takes K neighbours, (K − 1) / Σ_{i<K} ln(r_K / r_i) at each row, and means over rows and over K from 10
to 20, as its authors do. `combine="inverse"` means inverses instead, the likelihood of all rows together (MacKay and
Ghahramani 2005), which few neighbours bias less. One value a row is `inlay.indexes.local_dimension`.

All of them look at the scale on which neighbours lie, and that shrinks with N: compare sets of equal size only. Sets of
many dimensions are underestimated, for there are never enough rows. Duplicates would make μ infinite, so a row that
another one equals is left out.

Sources: Facco, d'Errico, Rodriguez and Laio 2017 (Scientific Reports 7, 12140); Levina and Bickel 2004 (NIPS 17); as
used by Tsukagoshi and Sasano, Redundancy, Isotropy, and Intrinsic Dimensionality of Prompt-based Text Embeddings (arXiv
2506.01435), which does not say which form of TwoNN it ran.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.flat import checked_rows
from inlay.indexes.local_dimension import dimension_of, near_distances
from inlay.kernels.dense import normalise
from inlay.types import Metric

__all__ = ["Near", "dimension_of_subsamples", "distinct_neighbours", "levina_bickel", "two_nn"]

DISCARDED = 0.1


class Near(NamedTuple):
    """Neighbours among rows that are all different.

    Args:
        kept: numbers of those rows, int64 [m], ascending: of equal rows the first.
        near: the k nearest others of each, as places in `kept`, int64 [m, k].
        distances: ascending, above 0, float64 [m, k].
    """

    kept: np.ndarray
    near: np.ndarray
    distances: np.ndarray


def two_nn(
    rows: np.ndarray,
    *,
    method: Literal["mle", "fit"] = "mle",
    discard: float | None = None,
    metric: Metric = "cosine",
) -> float:
    """Intrinsic dimension by TwoNN; infinite where every row's two neighbours are equally far.

    Args:
        rows: [n, dim], at least three different ones.
        method: `mle` or `fit`.
        discard: share of the largest μ that is dropped: by default 0.1 for `fit` and none for `mle`, which takes those
            dropped to be at least as large as the largest one kept.
        metric: `cosine` brings rows to length 1; `l2` and `dot` measure between rows as they are.
    """
    if method not in ("mle", "fit"):
        raise BadInput(f"method must be mle or fit, got {method!r}")
    return two_nn_of(distinct_neighbours(rows, 2, metric=metric).distances, method=method, discard=discard)


def two_nn_of(distances: np.ndarray, *, method: str = "mle", discard: float | None = None) -> float:
    """The same from ascending distances above 0, float64 [n, 2 or more]."""
    discard = (DISCARDED if method == "fit" else 0.0) if discard is None else discard
    if isinstance(discard, bool) or not isinstance(discard, int | float | np.number) or not 0 <= discard < 1:
        raise BadInput(f"discard must be a share from 0 to below 1, got {discard!r}")
    logs = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    count = len(logs)
    kept = int(count * (1 - discard))
    if method == "fit":
        kept = min(kept, count - 1)  # at i = N the distribution function is 1, and its logarithm nothing to fit
    if kept < 2:
        raise BadInput(f"discarding {discard:g} of {count} rows leaves {kept} to estimate from; give more rows")
    logs = logs[:kept]
    if not logs[-1] > 0:
        return float("inf")
    if method == "fit":
        heights = -np.log1p(-np.arange(1, kept + 1) / count)
        return float(logs @ heights / (logs @ logs))
    return float((kept - 1) / (logs.sum() + (count - kept) * logs[-1]))


def levina_bickel(
    rows: np.ndarray,
    k: int | tuple[int, int] = (10, 20),
    *,
    combine: Literal["mean", "median", "inverse"] = "mean",
    unbiased: bool = False,
    metric: Metric = "cosine",
) -> float:
    """Intrinsic dimension by maximum likelihood over K neighbours.

    Args:
        rows: [n, dim], more than K different ones.
        k: K, or the first and the last of the values that are averaged over.
        combine: the rows' values: their `mean`, their `median`, or the `inverse` of the mean of their inverses.
        unbiased: K − 2 in the numerator.
        metric: as in `two_nn`.
    """
    _, last = _range(k, unbiased)
    return levina_bickel_of(distinct_neighbours(rows, last, metric=metric).distances, k, combine, unbiased)


def levina_bickel_of(
    distances: np.ndarray,
    k: int | tuple[int, int] = (10, 20),
    combine: str = "mean",
    unbiased: bool = False,
) -> float:
    """The same from ascending distances above 0, float64 [n, K or more]."""
    first, last = _range(k, unbiased)
    if combine not in ("mean", "median", "inverse"):
        raise BadInput(f"combine must be mean, median or inverse, got {combine!r}")
    values = []
    for near in range(first, last + 1):
        own = dimension_of(distances[:, :near], last=False) * ((near - 2) / (near - 1) if unbiased else 1)
        if combine == "inverse":
            inverse = float(np.mean(1 / own))
            values.append(1 / inverse if inverse else np.inf)
        else:
            values.append(float(np.mean(own) if combine == "mean" else np.median(own)))
    return float(np.mean(values))


def distinct_neighbours(rows: np.ndarray, k: int, *, metric: Metric = "cosine") -> Near:
    """The k nearest others of each row, exact, among rows that are all different.

    Args:
        rows: [n, dim]; for `cosine` none of them zero.
        k: how many, at least 2.
        metric: as in `two_nn`.
    """
    if metric not in get_args(Metric):
        raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
    rows = usable_rows(rows, zeros=metric != "cosine")
    if metric == "cosine":
        rows = normalise(rows)
    kept = np.sort(np.unique(rows, axis=0, return_index=True)[1])
    while True:
        if len(kept) <= max(k, 2):
            said = "row" if len(kept) == 1 else "rows"
            raise BadInput(
                f"{len(kept)} different {said} among {len(rows)}: {k} neighbours of each need {max(k, 2) + 1}; "
                "give more rows, or look at fewer neighbours"
            )
        near, distances = near_distances(rows[kept], k, metric="l2")
        # Equal up to the rounding of float32: of such rows, those go that come after another one.
        again = ((distances == 0) & (near < np.arange(len(kept))[:, None])).any(axis=1)
        if not again.any():
            return Near(kept, near, distances)
        kept = kept[~again]


def dimension_of_subsamples(
    rows: np.ndarray,
    estimate: Callable[[np.ndarray], float] = two_nn,
    *,
    subsamples: int = 5,
    share: float = 0.5,
    seed: int = 0,
) -> np.ndarray:
    """An estimate on random parts of the rows, float64 [subsamples]: its standard deviation is an error bar.

    The parts are smaller than the whole, so their mean is of another scale: it is not a better estimate.

    Args:
        rows: [n, dim].
        estimate: rows → a number.
        subsamples: how many parts.
        share: of the rows that a part has.
        seed: of the draw.
    """
    rows = usable_rows(rows)
    if isinstance(subsamples, bool) or not isinstance(subsamples, int | np.integer) or subsamples < 1:
        raise BadInput(f"subsamples must be a positive integer, got {subsamples!r}")
    if not 0 < share <= 1:
        raise BadInput(f"share must be above 0 and at most 1, got {share!r}")
    random = np.random.default_rng(seed)
    count = max(1, int(len(rows) * share))
    return np.array(
        [estimate(rows[np.sort(random.choice(len(rows), count, replace=False))]) for _ in range(subsamples)]
    )


def usable_rows(rows: Any, *, zeros: bool = True, what: str = "row") -> np.ndarray:
    """Float32 [n, dim] of finite numbers; refuses zero rows if they are said to have no direction."""
    given = np.asarray(rows)
    if given.ndim != 2 or not given.shape[1] or not len(given):
        raise BadInput(f"expected {what}s [n, dim], got an array of shape {list(given.shape)}")
    found = checked_rows(given, given.shape[1], what)
    if not zeros:
        empty = np.flatnonzero(~found.any(axis=1))
        if len(empty):
            raise BadInput(
                f"{what} {empty[0]} is zero ({len(empty)} of {len(found)} are) and points nowhere: leave such rows out"
            )
    return found


def _range(k: Any, unbiased: bool) -> tuple[int, int]:
    first, last = (k, k) if isinstance(k, int | np.integer) else k if isinstance(k, tuple) and len(k) == 2 else (0, 0)
    least = 3 if unbiased else 2
    if not all(isinstance(one, int | np.integer) and not isinstance(one, bool) for one in (first, last)):
        first = 0
    if not least <= first <= last:
        raise BadInput(f"k must be an integer from {least} on, or two of them in order, got {k!r}")
    return int(first), int(last)
