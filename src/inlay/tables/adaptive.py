"""AdaptEmb: frequent ids have rows of their own, the others share some.

As described and measured in "Experimental Analysis of Large-scale Learnable Vector Storage Compression" (arXiv
2311.15578, VLDB 2024).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.compiled import DenseRows
from inlay.tables.hashing import buckets
from inlay.tables.keyspace import KeySpace
from inlay.tables.table import Compiled, Table

__all__ = ["Adaptive"]


class Adaptive(Table):
    """The `private` most frequent ids have a row each; the others are hashed to one of `shared` rows.

    Which row an id reads is an array of one word an id, and counts.

    Args:
        rows: number of keys.
        dim: width.
        private: rows of one id each.
        shared: rows of many; may be 0 only if no id needs one.
        counts: how often each id is seen in training, [rows]; None (as a file is read) takes ids as sorted by
            falling frequency. Among equals the lower id is taken to be the more frequent.
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
        seed: of the hash.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        private: int,
        shared: int,
        counts: np.ndarray | None = None,
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(rows, dim, private=private, shared=shared, scale=scale, seed=seed)
        if not 0 <= private <= rows:
            raise BadInput(f"private must be from 0 to {rows}, got {private}")
        if shared < 0 or (shared == 0 and private < rows):
            raise BadInput(
                f"shared must be at least 1 while {rows - private} ids have no row of their own, got {shared}"
            )
        if counts is not None and len(counts) != rows:
            raise BadInput(f"counts has {len(counts)} numbers for {rows} rows")
        index = torch.zeros(rows, dtype=torch.int32)
        if shared:
            index += (private + buckets(torch.arange(rows), shared, seed)).int()
        order = np.arange(rows) if counts is None else np.argsort(-np.asarray(counts), kind="stable")
        index[torch.from_numpy(order[:private].copy())] = torch.arange(private, dtype=torch.int32)
        self.register_buffer("index", index)
        self.index: Tensor
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(private + shared, dim).uniform_(-bound, bound))

    @classmethod
    def from_budget(
        cls, space: KeySpace, dim: int, budget_bytes: float, *, private: float = 0.5, **settings: Any
    ) -> Self:
        """One table for all fields, with as many rows as fit beside the index.

        Args:
            space: numbers the ids, and knows how frequent they are.
            dim: width.
            budget_bytes: rows and index.
            private: share of the rows that belong to one id.
            settings: of the table.
        """
        if not 0 <= private <= 1:
            raise BadInput(f"private is a share, from 0 to 1; got {private}")
        stored = int((budget_bytes - 4 * space.rows) // (4 * dim))
        if stored < 2:
            needed = 4 * space.rows + 8 * dim
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: the index and two rows take {needed:,}")
        if stored >= space.rows:
            own, rest = space.rows, 0
        else:
            own = min(int(private * stored), stored - 1)
            rest = stored - own
        return cls(space.rows, dim, private=own, shared=rest, counts=space.counts, **settings)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        return F.embedding(self.index[ids].long(), self.weight)

    def compiled(self) -> Compiled:
        """The same rows and index: equal exactly."""
        return DenseRows.of(self.weight.detach(), index=self.index)
