"""Rows of low rank: short codes of their own times a basis they share."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.budget import largest_within
from inlay.tables.table import Table

__all__ = ["LowRank"]


class LowRank(Table):
    """Row = codes[id] · basis, with codes [rows, rank] and basis [rank, dim].

    Args:
        rows: number of keys.
        dim: width.
        rank: width of the codes, at most `dim`.
        scale: rows begin with this standard deviation.
    """

    def __init__(self, rows: int, dim: int, *, rank: int, scale: float = 0.05) -> None:
        super().__init__(rows, dim, rank=rank, scale=scale)
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= dim:
            raise BadInput(f"rank must be from 1 to {dim}, got {rank!r}")
        if not scale > 0:
            raise BadInput(f"scale must be above 0, got {scale}")
        # A sum of `rank` products of both: each factor has the root of the standard deviation one product needs.
        root = (scale / rank**0.5) ** 0.5
        self.codes = nn.Parameter(torch.randn(rows, rank) * root)
        self.basis = nn.Parameter(torch.randn(rank, dim) * root)

    @classmethod
    def fit(cls, table: Tensor, rank: int) -> Self:
        """The nearest table of that rank (truncated singular value decomposition) to table [rows, dim]."""
        if not 0 < rank <= min(table.shape):
            raise BadInput(f"rank must be from 1 to {min(table.shape)}, got {rank}")
        u, s, v = torch.linalg.svd(table.detach().float(), full_matrices=False)
        made = cls(*table.shape, rank=rank)
        root = s[:rank].sqrt()  # shared between both, so that neither trains much faster than the other
        with torch.no_grad():
            made.codes.copy_(u[:, :rank] * root)
            made.basis.copy_(root[:, None] * v[:rank])
        return made

    @classmethod
    def from_budget(cls, rows: int, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """The highest rank that fits."""
        return cls(
            rows,
            dim,
            rank=largest_within(lambda rank: 4 * rank * (rows + dim), budget_bytes, 1, dim, "rank"),
            **settings,
        )

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        return F.embedding(ids, self.codes) @ self.basis

    @property
    def weight(self) -> Tensor:
        """The whole table [rows, dim]."""
        return self.codes @ self.basis
