"""CKA: how alike the geometry of two sets of rows is, when they are rows of the same texts by different encoders.

With K and L the matrices of similarities within the one set and within the other,

    CKA = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L))

so widths may differ, and neither a rotation nor a common scale changes anything. `linear` takes dot products, and is
‖AᵀB‖² / (‖AᵀA‖ ‖BᵀB‖) in Frobenius norms of centred rows. `rbf` takes exp(−d² / 2σ²), σ² a multiple of the median
squared distance, which looks more at rows that are near each other.

The usual HSIC is biased upwards: rows shuffled against each other still get a CKA above 0, a high one where there are
not many more rows than dimensions. `debiased` takes the unbiased HSIC (diagonals out, means of rows, columns and all
taken off by n − 1, n − 2 and n − 3), which is 0 on average for shuffled rows and may fall below.

A high CKA does not mean that searches find the same: see `ranked_overlap` for that.

Sources: Kornblith, Norouzi, Lee and Hinton, Similarity of Neural Network Representations Revisited (arXiv 1905.00414);
Song, Smola, Gretton, Bedo and Borgwardt 2012 (JMLR 13) for the unbiased HSIC; as used by Caspari et al., Beyond
Benchmarks (arXiv 2407.08275).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Literal, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.intrinsic_dimension import usable_rows

__all__ = ["cka", "cka_matrix"]

BLOCK = 256  # rows of a similarity matrix that are there at once
MEDIAN_OF = 4096  # rows that the median distance is taken of
ROUNDING = 1e-7
LEAST = 4  # rows that the unbiased estimate needs


class _Sums(NamedTuple):
    """What the HSIC of two similarity matrices is made of, the diagonals in."""

    product: float  # Σ_ij K_ij L_ij
    diagonals: float  # Σ_i K_ii L_ii


def cka(
    A: np.ndarray,
    B: np.ndarray,
    *,
    kernel: Literal["linear", "rbf"] = "linear",
    debiased: bool = False,
    width: float = 1.0,
) -> float:
    """CKA of rows of the same texts in the same order: from 0 to 1; debiased, it may be below 0.

    Args:
        A: [n, dim], n at least 4.
        B: [n, any dim].
        kernel: `linear` or `rbf`.
        debiased: whether by the unbiased estimate.
        width: of `rbf`, σ as a multiple of the square root of the median squared distance of the set.
    """
    return float(cka_matrix([A, B], kernel=kernel, debiased=debiased, width=width)[0, 1])


def cka_matrix(
    sets: Sequence[np.ndarray],
    *,
    kernel: Literal["linear", "rbf"] = "linear",
    debiased: bool = False,
    width: float = 1.0,
) -> np.ndarray:
    """CKA of every pair of sets of rows, float64 [sets, sets].

    Args:
        sets: each [n, dim] of the same texts in the same order; dims may differ.
        kernel: as in `cka`.
        debiased: as in `cka`.
        width: as in `cka`.
    """
    if kernel not in ("linear", "rbf"):
        raise BadInput(f"kernel must be linear or rbf, got {kernel!r}")
    if isinstance(width, bool) or not isinstance(width, int | float | np.number) or not 0 < width < np.inf:
        raise BadInput(f"width must be a positive number, got {width!r}")
    rows = _centred(sets)
    count = len(rows[0])
    if kernel == "linear":
        own = [np.einsum("nd,nd->n", one, one) for one in rows]
        totals = [np.zeros(count) for _ in rows]  # rows are centred, so each row of a similarity matrix sums to 0
        sums = {
            (i, j): _Sums(_linear_product(rows[i], rows[j]), float(own[i] @ own[j]))
            for i, j in combinations_with_replacement(range(len(rows)), 2)
        }
    else:
        own = [np.ones(count) for _ in rows]
        sums, totals = _rbf_sums(rows, width)
    hsic = np.empty((len(rows), len(rows)))
    for (i, j), found in sums.items():
        hsic[i, j] = hsic[j, i] = (
            _unbiased(found, own[i], own[j], totals[i], totals[j]) if debiased else _biased(found, totals[i], totals[j])
        )
    scale = np.diag(hsic)
    if not (scale > 0).all():
        at = int(np.flatnonzero(~(scale > 0))[0])
        raise BadInput(f"the rows of set {at} are as good as unrelated to each other: no CKA; give more texts")
    return np.asarray(hsic / np.sqrt(np.outer(scale, scale)))


def _centred(sets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Checked sets around their means, float64."""
    if len(sets) < 2:
        raise BadInput(f"{len(sets)} set of rows has nothing to be compared with; give two at least")
    found: list[np.ndarray] = []
    for number, one in enumerate(sets):
        rows = usable_rows(one)
        if found and len(rows) != len(found[0]):
            raise BadInput(f"set {number} has {len(rows)} rows and set 0 {len(found[0])}: give rows of the same texts")
        if len(rows) < LEAST:
            raise BadInput(f"{len(rows)} rows are too few to compare geometries; give {LEAST} texts at least")
        exact = rows.astype(np.float64)
        size = float(np.square(exact).sum())
        exact -= exact.mean(axis=0)
        if not float(np.square(exact).sum()) > ROUNDING**2 * size:
            raise BadInput(f"all {len(rows)} rows of set {number} are equal: they have no geometry to compare")
        found.append(exact)
    return found


def _linear_product(a: np.ndarray, b: np.ndarray) -> float:
    """Σ_ij (a_i·a_j)(b_i·b_j), by whichever of AᵀB and the two similarity matrices is less work."""
    if a.shape[1] * b.shape[1] <= len(a) * (a.shape[1] + b.shape[1]):
        return float(np.square(a.T @ b).sum())
    return sum(
        float(np.vdot(a[first : first + BLOCK] @ a.T, b[first : first + BLOCK] @ b.T))
        for first in range(0, len(a), BLOCK)
    )


def _rbf_sums(rows: list[np.ndarray], width: float) -> tuple[dict[tuple[int, int], _Sums], list[np.ndarray]]:
    """Of Gaussian similarities, a block of rows at a time."""
    count = len(rows[0])
    squares = [np.einsum("nd,nd->n", one, one) for one in rows]
    spread = [2 * width**2 * _median(one, number) for number, one in enumerate(rows)]
    pairs = list(combinations_with_replacement(range(len(rows)), 2))
    product = dict.fromkeys(pairs, 0.0)
    totals = [np.empty(count) for _ in rows]
    for first in range(0, count, BLOCK):
        part = slice(first, first + BLOCK)
        blocks = []
        for one, square, wide, total in zip(rows, squares, spread, totals):
            distance = square[part, None] + square - 2 * (one[part] @ one.T)
            block = np.exp(-distance.clip(0) / wide)
            block[np.arange(len(block)), np.arange(first, first + len(block))] = 1
            total[part] = block.sum(axis=1)
            blocks.append(block)
        for i, j in pairs:
            product[i, j] += float(np.vdot(blocks[i], blocks[j]))
    return {pair: _Sums(value, float(count)) for pair, value in product.items()}, totals


def _median(rows: np.ndarray, number: int) -> float:
    """Median squared distance of pairs; of rows at even steps where there are very many."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), MEDIAN_OF), dtype=np.int64)]
    square = np.einsum("nd,nd->n", chosen, chosen)
    distance = square[:, None] + square - 2 * (chosen @ chosen.T)
    median = float(np.median(distance[np.triu_indices(len(chosen), 1)]))
    if not median > 0:
        raise BadInput(f"most rows of set {number} are equal, so their median distance is 0; take the linear kernel")
    return median


def _biased(sums: _Sums, total: np.ndarray, other: np.ndarray) -> float:
    """tr(KHLH), H = I − 11ᵀ/n; factors of n cancel in the ratio."""
    count = len(total)
    return float(sums.product - 2 / count * (total @ other) + total.sum() * other.sum() / count**2)


def _unbiased(sums: _Sums, own: np.ndarray, theirs: np.ndarray, total: np.ndarray, other: np.ndarray) -> float:
    """HSIC₁ of Song et al., without its factor 1 / n(n − 3): similarities of a row with itself are left out."""
    count = len(total)
    total, other = total - own, other - theirs
    trace = sums.product - sums.diagonals
    means = total.sum() * other.sum() / ((count - 1) * (count - 2))
    return float(trace + means - 2 / (count - 2) * (total @ other))
