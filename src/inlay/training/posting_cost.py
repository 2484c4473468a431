"""What a search over sparse rows costs: multiplications a pair, how evenly they are spread, and what is never used.

Of "Minimizing FLOPs to Learn Efficient Sparse Representations" (arXiv 2004.05665, ICLR 2020). With p_j the share of
rows in which dimension j is not zero, a pair of rows has F = Σ_j p_j² products in expectation, s = Σ_j p_j non-zeros a
row, and F ≥ s² / d, which is reached when all p_j are equal. R = F · d / s² says how far from even it is: 1 is even,
and d / R dimensions, evenly used, would cost the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.types import Sparse

__all__ = ["SparseCost", "sparse_cost"]


class SparseCost(NamedTuple):
    """Cost of a product of two rows.

    Args:
        flops: expected products of a query and a document, Σ_j p_j q_j.
        non_zeros: of a document, mean.
        query_non_zeros: of a query, mean; those of a document where no queries were given.
        sub_optimality: flops · d / (non_zeros · query_non_zeros): 1 where use is even. NaN where nothing is used.
        effective: d / sub_optimality, how many evenly used dimensions would cost this.
        dead: dimensions that no document uses.
        busiest: largest share of documents that one dimension is in.
    """

    flops: float
    non_zeros: float
    query_non_zeros: float
    sub_optimality: float
    effective: float
    dead: int
    busiest: float


def sparse_cost(documents: Any, queries: Any = None) -> SparseCost:
    """Cost of searching rows.

    With queries, `flops` is exact: it is what term-at-a-time search multiplies, by query and document, on average.
    Without, it is the unbiased estimate Σ_j n_j (n_j − 1) / (n (n − 1)) for two distinct rows of the population that
    the documents are a sample of (n_j rows of n use dimension j); Σ (n_j / n)² would count each row with itself.

    Args:
        documents: `Sparse`, scipy's, or dense [n, dim]; two rows at least where there are no queries.
        queries: rows of the same width, or None.
    """
    used, n, dim = _used(documents, "documents")
    if queries is None:
        if n < 2:
            raise BadInput(f"the cost of a pair needs two rows or queries, got {n} row{'s' * (n != 1)}")
        flops = float((used * (used - 1)).sum() / (n * (n - 1)))
        density = asked = float(used.sum() / n)
    else:
        wanted, m, width = _used(queries, "queries")
        if width != dim:
            raise BadInput(f"documents have {dim} dimensions, queries {width}; both must come from one encoder")
        if not n or not m:
            raise BadInput(f"the cost of a pair needs rows of both kinds, got {m} queries and {n} documents")
        flops = float((used / n) @ (wanted / m))
        density, asked = float(used.sum() / n), float(wanted.sum() / m)
    even = density * asked / dim
    ratio = flops / even if even else float("nan")
    effective = dim / ratio if ratio else float("nan")
    return SparseCost(flops, density, asked, ratio, effective, int((used == 0).sum()), float(used.max() / n))


def _used(rows: Any, what: str) -> tuple[np.ndarray, int, int]:
    """How many rows use each dimension float64 [dim], rows, dimensions."""
    if isinstance(rows, np.ndarray):
        if rows.ndim != 2:
            raise BadInput(f"{what} must be rows [n, dim], got shape {list(rows.shape)}")
        rows = Sparse.from_dense(rows)
    rows = Sparse.of(rows)
    n, dim = rows.shape
    if not dim:
        raise BadInput(f"{what} have no dimensions")
    if not np.isfinite(rows.data).all():
        raise BadInput(f"{what} hold NaN or infinity")
    if len(rows.indices) and not 0 <= rows.indices.min() <= rows.indices.max() < dim:
        raise BadInput(f"{what} have columns outside their {dim} dimensions")
    stored = rows.indices[rows.data != 0]  # a zero that is stored costs, but is no activation
    return np.bincount(stored, minlength=dim).astype(np.float64), n, dim
