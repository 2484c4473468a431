"""Distinct ids of a batch in one pass over it, without sorting.

Two int32 arrays as long as the table: in which call an id was last met, and the number it had then. Nothing is cleared
between calls, because every call has an epoch of its own; after 2³¹ − 1 of them the arrays are cleared once.

Source: the offload runtime of STEM (arXiv 2601.10639).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.gather import distinct

__all__ = ["Deduplication", "Distinct", "checked"]

LAST = np.iinfo(np.int32).max


class Distinct(NamedTuple):
    """Ids in the order they first occur, int64 [u], and where each of the batch is among them, int64 [n]."""

    unique: np.ndarray
    inverse: np.ndarray


class Deduplication:
    """Finds the distinct ids of batches over one table; for one thread at a time.

    Args:
        rows: of the table.
    """

    def __init__(self, rows: int) -> None:
        if rows < 1:
            raise BadInput(f"rows must be at least 1, got {rows}")
        self.rows, self.epoch = rows, 0
        self._seen = np.zeros(rows, dtype=np.int32)
        self._slot = np.zeros(rows, dtype=np.int32)

    def __call__(self, ids: np.ndarray) -> Distinct:
        """Distinct ids of a batch of any shape, taken flat."""
        ids = checked(ids, self.rows)
        if self.epoch == LAST:
            self._seen[:] = 0
            self.epoch = 0
        self.epoch += 1
        unique, inverse = np.empty(len(ids), dtype=np.int64), np.empty(len(ids), dtype=np.int64)
        count = distinct(ids, self._seen, self._slot, self.epoch, unique, inverse)
        return Distinct(unique[:count], inverse)


def checked(keys: np.ndarray, rows: int) -> np.ndarray:
    """Keys as flat contiguous int64; refuses what is no integer or outside [0, rows)."""
    given = np.asarray(keys)
    if given.size and given.dtype.kind not in "iu":
        raise BadInput(f"keys must be integers, got {given.dtype}")
    if given.size:
        low, high = int(given.min()), int(given.max())
        if low < 0 or high >= rows:
            raise BadInput(f"key {low if low < 0 else high} is outside this table's [0, {rows})")
    return np.ascontiguousarray(given.reshape(-1), dtype=np.int64)
