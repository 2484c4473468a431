"""Isotropy: whether rows vary by the same amount in every direction, or in a few only.

`iso_score` compares the variances λ along the principal axes of rows of n dimensions with those of a ball:

    λ̂ = √n · λ / ‖λ‖;  δ = ‖λ̂ − 1‖ / √(2(n − √n));  φ = (n − δ²(n − √n))² / n²;  IsoScore = (nφ − 1) / (n − 1)

It is 1 when all variances are equal and 0 when one direction holds everything. The distance δ cancels: with the
participation ratio PR = (tr C)² / ‖C‖_F² = (Σλ)² / Σλ² of the covariance C, φ is PR / n and IsoScore is
(PR − 1) / (n − 1). Nothing has to be decomposed. `participation_ratio` is the number of directions of equal variance
that would be as concentrated. Both are of rows around their mean, and of `Moments` where rows were not kept.

`partition_ratio` is the other measure in use: Z(a) = Σ exp(a·x) over all rows x, at the eigenvectors a of XᵀX, the
smallest over the largest; 1 is isotropic. It is of rows as they are, so that a common mean counts against it. The sign
of an eigenvector is arbitrary and Z(a) is not Z(−a): both are looked at here, or the measure would depend on the
routine that found the eigenvectors. Fewer rows than dimensions leave directions in which all rows are 0, and Z = N.

Sources: Rudman, Gillman, Rayne and Eickhoff, IsoScore: Measuring the Uniformity of Embedding Space Utilization (arXiv
2108.07344); Mu and Viswanath, All-but-the-Top (arXiv 1702.01417); as used by arXiv 2506.01435 and arXiv 2406.12336.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.intrinsic_dimension import usable_rows
from inlay.kernels.dense import normalise

if TYPE_CHECKING:
    from inlay.spaces.moments import Moments

__all__ = ["constant_dimensions", "iso_score", "mean_cosine", "participation_ratio", "partition_ratio"]

BLOCK = 1024
ROUNDING = 1e-7  # of float32 numbers: a spread below that share of their size is none


def iso_score(rows: np.ndarray | Moments) -> float:
    """IsoScore of rows [n, dim], from 0 (one direction) to 1 (a ball).

    Args:
        rows: at least two that differ, of at least two dimensions; or their moments. Fewer rows than dimensions cannot
            fill them: then it is at most (n − 2) / (dim − 1), so compare sets of equal size.
    """
    dim = _dim(rows)
    if dim == 1:
        raise BadInput("rows of 1 dimension have one direction only, and no isotropy; give rows of 2 at least")
    return (participation_ratio(rows) - 1) / (dim - 1)


def participation_ratio(rows: np.ndarray | Moments) -> float:
    """(tr C)² / ‖C‖_F² of the covariance C of rows [n, dim]: from 1 to the smaller of dim and n − 1."""
    if _are_moments(rows):
        if rows.n < 2:
            raise BadInput(f"moments of {rows.n} rows have no variance; add two at least")
        size = float(np.square(rows.mean).sum()) + float(np.trace(rows.covariance))
        return _ratio(float(np.trace(rows.covariance)), float(np.square(rows.covariance).sum()), size, rows.n)
    rows = usable_rows(rows)
    if len(rows) < 2:
        raise BadInput("one row has no variance; give at least two")
    mean = rows.mean(axis=0, dtype=np.float64)
    # XᵀX and XXᵀ have the same trace and the same norm: the smaller one is made, a block at a time.
    wide = len(rows) < rows.shape[1]
    side, centre = (rows, mean[None]) if wide else (rows.T, mean[:, None])
    trace = square = 0.0
    for first in range(0, len(side), BLOCK):
        left = _centred(side, centre, first, wide)
        for second in range(first, len(side), BLOCK):
            product = left @ (left if second == first else _centred(side, centre, second, wide)).T
            trace += float(np.trace(product)) if second == first else 0.0
            square += float(np.square(product).sum()) * (1 if second == first else 2)
    return _ratio(trace, square, float(np.square(rows, dtype=np.float64).sum()), len(rows))


def partition_ratio(rows: np.ndarray) -> float:
    """min Z(a) / max Z(a) of rows [n, dim] as they are, over eigenvectors a and −a: from 0 to 1.

    Time grows with the cube of the smaller of n and dim.
    """
    exact = usable_rows(rows).astype(np.float64)
    count, dim = exact.shape
    if dim <= count:
        along = exact @ np.linalg.eigh(exact.T @ exact)[1]
    else:
        # X = UΣVᵀ: the rows along V are UΣ, and U and Σ² are of the smaller XXᵀ.
        values, vectors = np.linalg.eigh(exact @ exact.T)
        along = vectors * np.sqrt(values.clip(0))
    logs = np.concatenate([_log_sums(along), _log_sums(-along)])
    if dim > count:
        logs = np.append(logs, np.log(count))
    return float(np.exp(logs.min() - logs.max()))


def mean_cosine(rows: np.ndarray) -> float:
    """Mean cosine of all pairs of different rows [n, dim], exact: from the sum of the rows at length 1."""
    rows = usable_rows(rows, zeros=False)
    if len(rows) < 2:
        raise BadInput("one row makes no pair; give at least two")
    unit = normalise(rows)
    total = unit.sum(axis=0, dtype=np.float64)
    own = float(np.square(unit, dtype=np.float64).sum())
    return (float(total @ total) - own) / (len(rows) * (len(rows) - 1))


def constant_dimensions(rows: np.ndarray) -> int:
    """Dimensions of rows [n, dim] in which all rows are equal."""
    rows = usable_rows(rows)
    return int((rows == rows[0]).all(axis=0).sum())


def _dim(rows: Any) -> int:
    if _are_moments(rows):
        return int(rows.dim)
    given = np.asarray(rows)
    return given.shape[1] if given.ndim == 2 else 0


def _are_moments(rows: Any) -> TypeGuard[Moments]:
    from inlay.spaces.moments import Moments

    return isinstance(rows, Moments)


def _ratio(trace: float, square: float, size: float, count: int) -> float:
    """Of a covariance's trace and squared norm; `size` is the like of the trace for rows that are not centred."""
    if not trace > ROUNDING**2 * size:
        raise BadInput(f"all {count} rows are equal: they vary in no direction; give rows that differ")
    return trace**2 / square


def _centred(side: np.ndarray, centre: np.ndarray, first: int, wide: bool) -> np.ndarray:
    block: np.ndarray = side[first : first + BLOCK].astype(np.float64)
    return block - (centre if wide else centre[first : first + BLOCK])


def _log_sums(along: np.ndarray) -> np.ndarray:
    """ln Σ exp of each column, without overflow."""
    peak = along.max(axis=0)
    found: np.ndarray = peak + np.log(np.exp(along - peak).sum(axis=0))
    return found
