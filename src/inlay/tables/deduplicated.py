"""Dedup: blocks of a trained table that are nearly alike are stored once.

Zhou, Chen, Das, Min, Yu, Zhao, Zou: "Serving Deep Learning Models with Deduplication from Relational Databases"
(arXiv 2201.10442, VLDB 2022), for embedding tables as in arXiv 2311.15578.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlay.errors import BadInput
from inlay.tables.keyspace import KeySpace
from inlay.tables.staged import Staged
from inlay.tables.table import Table

__all__ = ["Deduplicated", "aliases"]


class Deduplicated(Staged):
    """Trained in full, then cut into blocks of rows; blocks that are like an earlier one read that, and all train on.

    Blocks come in the order of their 75th percentile of magnitude, the least trained first. A hash that keeps near
    vectors together proposes earlier blocks; like is a block with at least a share `alike` of its numbers within
    `tolerance`. That goes on until the budget is met. Where it is not met with these, `tolerance` (and the hash's
    `cell` with it) is widened until it is, to a tenth: quality is the price, and `tolerance` of the result says how
    much.

    Args:
        rows: number of keys.
        dim: width.
        block: rows of a block; the last is filled up with zeros.
        budget_bytes: of what is left, index included; None takes all that is alike.
        tolerance: of a number.
        alike: share of numbers that have to be within it.
        hashes: of the proposals.
        cell: width r of their cells: ⌈(a·x + b) / r⌉, a normal and b uniform in [0, r).
        scale: rows begin uniform in ±scale; None takes √(1 / rows).
        seed: of the hashes.
        kept: blocks that are stored, set by `advance`.
        stage: `warm-up`, or `fine-tune`.
    """

    stages = ("warm-up", "fine-tune")

    def __init__(
        self,
        rows: int,
        dim: int,
        *,
        block: int = 10_000,
        budget_bytes: float | None = None,
        tolerance: float = 0.01,
        alike: float = 0.7,
        hashes: int = 90,
        cell: float = 0.09,
        scale: float | None = None,
        seed: int = 0,
        kept: int | None = None,
        stage: str | None = None,
    ) -> None:
        super().__init__(
            rows, dim, block=block, budget_bytes=budget_bytes, tolerance=tolerance, alike=alike, hashes=hashes,
            cell=cell, scale=scale, seed=seed, kept=kept, stage=stage,
        )  # fmt: skip
        if block < 1 or hashes < 1:
            raise BadInput(f"block and hashes must be at least 1, got {block} and {hashes}")
        if not tolerance > 0 or not cell > 0 or not 0 < alike <= 1:
            raise BadInput(f"tolerance, cell, alike cannot be {tolerance}, {cell}, {alike}")
        self.block, self.blocks = block, -(-rows // block)
        stored = self.blocks if kept is None else kept
        if not 1 <= stored <= self.blocks:
            raise BadInput(f"kept must be from 1 to {self.blocks}, got {kept}")
        if budget_bytes is not None and budget_bytes < self._size(1):
            raise BadInput(f"{budget_bytes:,.0f} bytes are too few: one block and the index take {self._size(1):,}")
        bound = rows**-0.5 if scale is None else scale
        self.weight = nn.Parameter(torch.empty(stored * block, dim).uniform_(-bound, bound))
        with torch.no_grad():
            if kept is None:
                self.weight[rows:] = 0.0
        index = torch.arange(self.blocks, dtype=torch.int32).clamp(max=stored - 1)
        self.register_buffer("index", index if self.stage == "fine-tune" else None)
        self.index: Tensor | None

    @classmethod
    def from_budget(cls, space: KeySpace | int, dim: int, budget_bytes: float, **settings: Any) -> Self:
        """With a limit for what is left. Blocks are a thousandth of the table, at most 10,000 rows, unless given."""
        rows = space.rows if isinstance(space, KeySpace) else space
        block = settings.pop("block", min(10_000, max(1, rows // 1000)))
        return cls(rows, dim, block=block, budget_bytes=budget_bytes, **settings)

    def _size(self, kept: int) -> int:
        return 4 * (kept * self.block * self.dim + self.blocks)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., dim]."""
        if self.index is None:
            return F.embedding(ids, self.weight)
        at = self.index[ids // self.block].long() * self.block + ids % self.block
        return F.embedding(at, self.weight)

    @property
    def tolerance(self) -> float:
        """That was needed."""
        return float(self.settings["tolerance"])

    @torch.no_grad()
    def advance(self) -> Table:
        """The deduplicated table, to be fine-tuned."""
        if self.stage != "warm-up":
            return super().advance()
        blocks = self.weight.detach().view(self.blocks, -1).numpy()
        budget = self.settings["budget_bytes"]
        most = self.blocks if budget is None else max(1, int((budget / 4 - self.blocks) // (self.block * self.dim)))

        def deduplicated(wider: float) -> np.ndarray:
            return aliases(
                blocks, 1 if budget is None else most, tolerance=self.tolerance * wider,
                alike=self.settings["alike"], hashes=self.settings["hashes"], cell=self.settings["cell"] * wider,
                seed=self.settings["seed"],
            )  # fmt: skip

        wider = 1.0
        found = deduplicated(wider)
        while len(np.unique(found)) > most:
            wider *= 2
            found = deduplicated(wider)
        low = wider / 2
        while wider > 1 and wider - low > low / 10:
            middle = (low + wider) / 2
            tried = deduplicated(middle)
            if len(np.unique(tried)) <= most:
                wider, found = middle, tried
            else:
                low = middle
        kept, index = np.unique(found, return_inverse=True)
        settings = {**self.settings, "kept": len(kept), "stage": "fine-tune", "tolerance": self.tolerance * wider}
        made = type(self)(**settings)
        assert made.index is not None
        made.index.copy_(torch.from_numpy(index.reshape(-1)))
        made.weight.copy_(torch.from_numpy(blocks[kept]).view(-1, self.dim))
        made.trained_on = self.trained_on
        return made


def aliases(
    blocks: np.ndarray,
    most: int,
    *,
    tolerance: float = 0.01,
    alike: float = 0.7,
    hashes: int = 90,
    cell: float = 0.09,
    seed: int = 0,
) -> np.ndarray:
    """Which block each block reads: itself, or one that is like it.

    Time grows with the square of the number of blocks: some thousand are a matter of a second.

    Args:
        blocks: float32 [n, numbers].
        most: blocks to keep; it stops when no more are left. 1 takes all that is alike.
        tolerance: of a number.
        alike: share of numbers that have to be within it.
        hashes: that propose.
        cell: of them.
        seed: of them.

    Returns:
        Int64 [n].
    """
    n = len(blocks)
    random = np.random.default_rng(seed)
    directions = random.standard_normal((blocks.shape[1], hashes)).astype(np.float32)
    cells = np.ceil((blocks @ directions + random.uniform(0, cell, hashes)) / cell).astype(np.int64)
    order = np.argsort(np.quantile(np.abs(blocks), 0.75, axis=1), kind="stable")
    found = np.arange(n)
    left, count = n, 0
    earlier, earlier_cells = np.empty(n, dtype=np.int64), np.empty_like(cells)
    for block in order.tolist():
        if left <= most:
            break
        proposed = earlier[:count][(earlier_cells[:count] == cells[block]).any(1)]
        if len(proposed):
            within = (np.abs(blocks[proposed] - blocks[block]) <= tolerance).mean(1)
            best = int(within.argmax())
            if within[best] >= alike:
                found[block] = proposed[best]
                left -= 1
                continue
        earlier[count], earlier_cells[count] = block, cells[block]
        count += 1
    return found
