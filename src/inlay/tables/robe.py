"""ROBE: all rows are windows into one circular array of numbers.

Desai, Chou, Shrivastava: "Random Offset Block Embedding Array (ROBE) for CriteoTB Benchmark MLPerf DLRM Model" (arXiv
2108.02191, MLSys 2022).
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.budget import checked_budget
from inlay.tables.hashing import buckets, mixed, salted
from inlay.tables.keyspace import KeySpace
from inlay.tables.table import Table

__all__ = ["Robe"]

PRIME = 2_038_074_743  # of the paper's hash


class Robe(Table):
    """A row is cut into chunks; chunk c of id x is `chunk` consecutive numbers of the array, from where h(x, c) says.

    What runs over the end goes on at the start. Every coordinate also has a random sign of its own, without which two
    ids that share numbers would only ever be pulled the same way.

    `chunk` is a size, as the letter Z of the paper; in the code of arXiv 2311.15578 Z is how many chunks there are.
    Larger chunks touch fewer cache lines; a chunk of the whole width means ids collide in runs.

    Args:
        rows: number of keys.
        dim: width.
        size: numbers of the array.
        chunk: numbers of a chunk; None takes the whole width. It need not divide the width.
        hash: `mixing`, or `linear`: the paper's own (B·x + C·c + D) mod P mod size, kept for comparison: without
            wrap-around its functions are not independent, and small chunks suffer for it.
        scale: numbers begin uniform in ±scale; None takes √(1 / rows).
        seed: of the hashes.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        size: int,
        chunk: int | None = None,
        hash: Literal["mixing", "linear"] = "mixing",
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(rows, dim, size=size, chunk=chunk, hash=hash, scale=scale, seed=seed)
        chunk = dim if chunk is None else chunk
        for what, number in (("size", size), ("chunk", chunk)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise BadInput(f"{what} must be a whole number of at least 1, got {number!r}")
        if chunk > dim:
            raise BadInput(f"chunk must be at most the width {dim}, got {chunk}")
        if hash not in ("mixing", "linear"):
            raise BadInput(f"hash must be 'mixing' or 'linear', got {hash!r}")
        if scale is not None and not scale >= 0:
            raise BadInput(f"scale must be at least 0, got {scale}")
        self.size, self.chunk, self.hash = size, chunk, hash
        chunks = -(-dim // chunk)
        words = -(-dim // 64)  # of 64 signs each
        first = seed * (chunks + words)
        self.start_salts, self.sign_salts = range(first, first + chunks), range(first + chunks, first + chunks + words)
        random = torch.Generator().manual_seed(seed)
        self.paper = torch.randint(1, PRIME, (8,), generator=random).tolist()
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(size).uniform_(-bound, bound))

    @classmethod
    def from_budget(cls, space: KeySpace | int, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """As many numbers as fit, at most those of a full table; one array for all fields."""
        rows = space.rows if isinstance(space, KeySpace) else space
        size = min(int(checked_budget(budget_bytes) // 4), rows * dim)
        if size < 1:
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: one number takes 4")
        return cls(rows, dim, size=size, **settings)

    def places(self, ids: Tensor) -> Tensor:
        """Where in the array the numbers of ids [...] are, int64 [..., dim]."""
        coordinate = torch.arange(self.dim)
        chunk = coordinate // self.chunk
        if self.hash == "mixing":
            starts = buckets(salted(ids, self.start_salts), self.size)
        else:
            _, b, c, d, *_ = self.paper
            which = torch.arange(len(self.start_salts))
            starts = (ids.long()[..., None] * b % PRIME + which * c + d) % PRIME % self.size
        return (starts[..., chunk] + coordinate % self.chunk) % self.size

    def signs(self, ids: Tensor) -> Tensor:
        """Sign float32 [..., dim] of every number."""
        coordinate = torch.arange(self.dim)
        if self.hash == "mixing":
            words = mixed(salted(ids, self.sign_salts))[..., coordinate // 64]
            return ((words >> (coordinate % 64)) & 1).float() * 2 - 1
        *_, b, c, d = self.paper
        return ((ids.long()[..., None] * b % PRIME + coordinate * c + d) % PRIME % 2).float() * 2 - 1

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        found = F.embedding(self.places(ids), self.weight[:, None]).squeeze(-1)
        return found * self.signs(ids)
