"""The hashing trick: ids share the rows of fewer buckets. The floor that every smaller table is measured against.

Weinberger, Dasgupta, Langford, Smola, Attenberg: "Feature Hashing for Large Scale Multitask Learning" (arXiv 0902.2206,
ICML 2009); with several hashes, Svenstrup, Hansen, Winther: "Hash Embeddings" (arXiv 1709.03933, NeurIPS 2017) without
the importance weights.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.budget import checked_budget
from inlay.tables.hashing import buckets as bucket_of
from inlay.tables.table import Table

__all__ = ["Hashed"]


class Hashed(Table):
    """Row = Σⱼ E[hⱼ(id)] over `hashes` independent hashes into one table of `buckets` rows.

    With one hash, ids in a bucket are one to the model. With k, two ids are confused only if all k agree.

    Args:
        rows: number of keys.
        dim: width.
        buckets: rows that are stored.
        hashes: summed rows of an id.
        scale: rows begin uniform in ±scale; None takes √(1 / buckets).
        seed: of the hashes.
        sparse: give sparse gradients, for `RowAdam`.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        buckets: int,
        hashes: int = 1,
        scale: float | None = None,
        seed: int = 0,
        sparse: bool = False,
    ) -> None:
        super().__init__(rows, dim, buckets=buckets, hashes=hashes, scale=scale, seed=seed, sparse=sparse)
        for what, number in (("buckets", buckets), ("hashes", hashes)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise BadInput(f"{what} must be a whole number of at least 1, got {number!r}")
        if scale is not None and not scale >= 0:
            raise BadInput(f"scale must be at least 0, got {scale}")
        self.buckets, self.hashes, self.seed, self.sparse = buckets, hashes, seed, sparse
        bound = buckets**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(buckets, dim).uniform_(-bound, bound))

    @classmethod
    def from_budget(cls, rows: int, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """As many buckets as fit, at most a bucket a key."""
        fit = int(checked_budget(budget_bytes) // (4 * dim))
        if fit < 1:
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: one row takes {4 * dim}")
        return cls(rows, dim, buckets=min(fit, rows), **settings)

    def bucket(self, ids: Tensor) -> Tensor:
        """Stored rows [..., hashes] that ids [...] read."""
        salts = range(self.seed * self.hashes, (self.seed + 1) * self.hashes)
        return torch.stack([bucket_of(ids, self.buckets, salt) for salt in salts], -1)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        found = F.embedding(self.bucket(ids), self.weight, sparse=self.sparse)
        return found.squeeze(-2) if self.hashes == 1 else found.sum(-2)
