"""A row of its own for every key: what everything else is measured against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.table import Table

__all__ = ["Full"]


class Full(Table):
    """One float32 row a key.

    Args:
        rows: number of keys.
        dim: width.
        scale: rows begin uniform in ±scale; None takes sqrt(1 / rows).
        sparse: give sparse gradients (only rows of the batch), for `RowAdam`.
    """

    def __init__(self, rows: int, dim: int, *, scale: float | None = None, sparse: bool = False) -> None:
        super().__init__(rows, dim, scale=scale, sparse=sparse)
        if scale is not None and not scale >= 0:
            raise BadInput(f"scale must be at least 0, got {scale}")
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(rows, dim).uniform_(-bound, bound))
        self.sparse = sparse

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        return F.embedding(ids, self.weight, sparse=self.sparse)
