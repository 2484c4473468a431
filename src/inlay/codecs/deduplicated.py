"""Blocks of a matrix that are nearly another block, stored once.

The benchmark of arXiv 2311.15578 after Zhou, Chen, Yang et al., "Serving Deep Learning Models with Deduplication from
Relational Databases" (arXiv 2201.10442, VLDB 2022).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from inlay import sealed
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput

__all__ = ["BlockCodes", "Deduplicated"]

KIND = "block deduplication"
SHARE_STEP = 1 << 21  # numbers compared at a time


class BlockCodes(NamedTuple):
    """Blocks kept, float32 [kept, block rows, block columns], and which each block reads, int32 [down, across]."""

    blocks: np.ndarray
    which: np.ndarray
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of blocks and remap."""
        return self.blocks.nbytes + self.which.nbytes


class Deduplicated:
    """The matrix in blocks; a block reads an earlier one if enough of their numbers are nearly equal.

    Blocks are taken in rising order of the 75th percentile of their magnitudes, so that a large one never loses to
    small ones. L2-LSH proposes earlier blocks (`tables` hashes ⌈(a · x + b) / width⌉ with a of normal numbers; blocks
    that share one are compared); the likeness of two is the share of their numbers that differ by no more than `near`.
    From `like` upwards the most alike earlier block is read instead. It stops when the budget is met. Nothing says that
    it will be.

    Rows and columns of the last blocks that stick out are filled with zeros, which are compared too.

    Args:
        budget: bytes, as a share of float32 rows; None aliases all that may be.
        block: rows and columns of a block, at most; blocks are made as even as can be.
        near: difference that counts as none.
        like: share of such numbers that makes a block another.
        tables: hashes.
        width: of a hash's buckets. Projections are divided by √(numbers of a block), so that it is in units of the
            root mean square difference of two blocks.
        seed: of the hashes.
    """

    def __init__(
        self,
        budget: float | None = None,
        *,
        block: tuple[int, int] = (10_000, 100),
        near: float = 0.01,
        like: float = 0.7,
        tables: int = 90,
        width: float = 0.09,
        seed: int = 0,
    ) -> None:
        if budget is not None and not 0 < budget <= 1:
            raise BadInput(f"budget must be a share above 0 and up to 1, or None, got {budget}")
        if min(block) < 1 or tables < 1 or not width > 0:
            raise BadInput(f"block, tables and width must be above 0, got {block}, {tables} and {width}")
        if not near >= 0 or not 0 < like <= 1:
            raise BadInput(f"near must be at least 0 and like a share above 0, got {near} and {like}")
        self.budget, self.block = budget, (int(block[0]), int(block[1]))
        self.near, self.like, self.tables, self.width, self.seed = near, like, tables, width, seed

    def __repr__(self) -> str:
        return f"Deduplicated({self.budget}, block={self.block}, near={self.near:g}, like={self.like:g})"

    def fit(self, rows: np.ndarray) -> Self:
        """Nothing is learnt: blocks are compared with those of the matrix that is encoded."""
        _finite(rows)
        return self

    def encode(self, rows: np.ndarray) -> BlockCodes:
        """Blocks kept and the block that each reads."""
        rows = _finite(rows)
        (n, dim), (down, across) = rows.shape, self.block
        if not n or not dim:
            raise BadInput(f"blocks are cut from rows and columns, got {n} x {dim}")
        high, wide = -(-n // down), -(-dim // across)
        down, across = -(-n // high), -(-dim // wide)  # as even as can be: what sticks out costs bytes
        padded = np.zeros((high * down, wide * across), dtype=np.float32)
        padded[:n, :dim] = rows
        blocks = padded.reshape(high, down, wide, across).swapaxes(1, 2).reshape(high * wide, down * across)
        hashes = self._hashes(blocks)
        order = np.argsort(np.percentile(np.abs(blocks), 75, axis=1), kind="stable")
        room = -1.0 if self.budget is None else self.budget * 4 * n * dim
        takes = blocks.nbytes + 4 * len(blocks)
        which = np.arange(len(blocks))
        kept: list[int] = []
        buckets: list[dict[int, list[int]]] = [{} for _ in range(self.tables)]
        met = takes <= room
        for block in order.tolist():
            found = -1
            if not met:
                near = {c for table, own in zip(buckets, hashes[block].tolist()) for c in table.get(own, ())}
                found = self._most_alike(blocks, block, sorted(near))
            if found >= 0:
                which[block] = found
                takes -= 4 * down * across
                met = takes <= room
            else:
                kept.append(block)
                for table, own in zip(buckets, hashes[block].tolist()):
                    table.setdefault(own, []).append(block)
        place = np.full(len(blocks), -1, dtype=np.int32)
        place[kept] = np.arange(len(kept))
        return BlockCodes(blocks[kept].reshape(-1, down, across), place[which].reshape(high, wide), (n, dim))

    def _hashes(self, blocks: np.ndarray) -> np.ndarray:
        """Int64 [blocks, tables]."""
        random = np.random.default_rng(self.seed)
        directions = random.standard_normal((blocks.shape[1], self.tables), dtype=np.float32)
        offsets = random.uniform(0, self.width, self.tables)
        projected = blocks @ directions / np.sqrt(blocks.shape[1])
        return np.ceil((projected + offsets) / self.width).astype(np.int64)

    def _most_alike(self, blocks: np.ndarray, block: int, among: list[int]) -> int:
        best, best_like = -1, self.like
        step = max(1, SHARE_STEP // blocks.shape[1])
        for low in range(0, len(among), step):
            some = among[low : low + step]
            like = (np.abs(blocks[some] - blocks[block]) <= self.near).mean(axis=1)
            at = int(like.argmax())
            if like[at] > best_like or (best < 0 and like[at] >= best_like):
                best, best_like = some[at], float(like[at])
        return best

    def decode(self, codes: BlockCodes, ids: np.ndarray | None = None) -> np.ndarray:
        """Float32 rows [n, dim], or those of ids."""
        n, dim = codes.shape
        ids = np.arange(n) if ids is None else np.asarray(ids)
        inside = ids % codes.blocks.shape[1]
        parts = codes.blocks[codes.which[ids // codes.blocks.shape[1]], inside[:, None]]
        return parts.reshape(len(ids), -1)[:, :dim]

    def nbytes(self, dim: int) -> int:
        """Bytes of one row, at most: none of its blocks is another. `BlockCodes.nbytes` is what a matrix takes."""
        return 4 * dim

    @property
    def codebook_nbytes(self) -> int:
        """Nothing besides the blocks, which are the codes."""
        return 0

    def save(self, path: str | Path) -> Path:
        """Write the settings to one file."""
        names = ("budget", "block", "near", "like", "tables", "width", "seed")
        return sealed.write(path, {}, {"kind": KIND, "settings": {name: getattr(self, name) for name in names}})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        return cls(**sealed.read(path, KIND)[1]["settings"])
