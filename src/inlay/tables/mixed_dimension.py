"""MDE: the more ids a field has, the narrower their rows; a matrix a field brings them to one width.

Ginart, Naumov, Mudigere, Yang, Zou: "Mixed Dimension Embeddings with Application to Memory-Efficient Recommendation
Systems" (arXiv 1909.11810, ISIT 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.keyspace import KeySpace
from inlay.tables.per_field import PerField
from inlay.tables.staged import sizes_of
from inlay.tables.table import Table

__all__ = ["MixedDimension", "mixed_widths"]

STEPS = 1000  # of alpha in [0, 1]


class MixedDimension(Table):
    """One field: rows of `width` numbers, times a matrix [width, dim] where that is narrower than `dim`.

    Args:
        rows: number of keys.
        dim: width that is given.
        width: width that is stored.
        scale: rows begin uniform in ±scale; None takes √(1 / rows). The matrix begins so that what is given
            has the same spread.
    """

    def __init__(self, rows: int, dim: int, *, width: int, scale: float | None = None) -> None:
        super().__init__(rows, dim, width=width, scale=scale)
        if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width <= dim:
            raise BadInput(f"width must be from 1 to {dim}, got {width!r}")
        if scale is not None and not scale >= 0:
            raise BadInput(f"scale must be at least 0, got {scale}")
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, width).uniform_(-bound, bound))
        self.matrix: nn.Parameter | None = None
        if width < dim:
            self.matrix = nn.Parameter(torch.randn(dim, width) * width**-0.5)

    @classmethod
    def from_budget(cls, space: KeySpace | Sequence[int], dim: int, budget_bytes: float, **settings: Any) -> PerField:
        """A table a field, with the smallest alpha that fits (see `mixed_widths`); matrices are counted."""
        sizes = sizes_of(space)

        def alpha(step: int) -> float:
            return 1 - step / STEPS

        def nbytes(step: int) -> float:
            return sum(_nbytes(n, dim, width) for n, width in zip(sizes, mixed_widths(sizes, dim, alpha(step))))

        if nbytes(0) > budget_bytes:
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: alpha=1 already takes {nbytes(0):,.0f}")
        # Bytes need not fall steadily with alpha: a matrix appears where a row first becomes narrower. So every step
        # is looked at, from the widest.
        best = next(step for step in range(STEPS, -1, -1) if nbytes(step) <= budget_bytes)
        return PerField([
            cls(n, dim, width=width, **settings) for n, width in zip(sizes, mixed_widths(sizes, dim, alpha(best)))
        ])  # fmt: skip

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        rows = F.embedding(ids, self.weight)
        return rows if self.matrix is None else F.linear(rows, self.matrix)


def mixed_widths(sizes: Sequence[int], dim: int, alpha: float) -> list[int]:
    """Width of each field: dim · (smallest / its size)^alpha, as the nearest power of two from 1 to `dim`."""
    if not 0 <= alpha <= 1:
        raise BadInput(f"alpha must be from 0 to 1, got {alpha}")
    widths = dim * (min(sizes) / torch.tensor(sizes, dtype=torch.float64)) ** alpha
    powers = 2 ** widths.log2().round()
    return [
        dim if wide >= dim else max(1, min(dim, int(power))) for wide, power in zip(widths.tolist(), powers.tolist())
    ]


def _nbytes(rows: int, dim: int, width: int) -> int:
    return 4 * (rows * width + (dim * width if width < dim else 0))
