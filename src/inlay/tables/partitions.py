"""Partitions of [0, rows) that are complementary: any two ids differ in the block of at least one of them.

All arithmetic is on whole numbers: divisions in float32 go wrong above 2²⁴.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np
from torch import Tensor

from inlay.errors import BadInput

__all__ = ["cell_codes", "coprime_sizes", "radix_codes", "radix_sizes", "residues", "root"]


def root(number: int, k: int) -> int:
    """The smallest whole m with m**k >= number."""
    low, high = 1, 1 << (-(-number.bit_length() // k) + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**k >= number else (middle + 1, high)
    return low


def radix_sizes(rows: int, k: int, first: int | None = None) -> tuple[int, ...]:
    """k sizes whose product is at least `rows`, as even as can be; `first` sets the first."""
    sizes, left = [], rows
    for i in range(k):
        sizes.append(first if i == 0 and first else root(left, k - i))
        left = -(-left // sizes[-1])
    return tuple(sizes)


def coprime_sizes(rows: int, k: int, first: int | None = None) -> tuple[int, ...]:
    """The same, and no two sizes share a divisor."""
    sizes: list[int] = []
    left = rows
    for i in range(k):
        size = first if i == 0 and first else root(left, k - i)
        while any(gcd(size, other) > 1 for other in sizes):
            size += 1
        sizes.append(size)
        left = -(-left // size)
    return tuple(sizes)


def radix_codes(ids: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Digits of ids, lowest first: `ids mod m₁`, `(ids div m₁) mod m₂`, …; the last takes all that is left."""
    codes = []
    for size in sizes[:-1]:
        codes.append(ids % size)
        ids = ids // size
    return [*codes, ids]


def residues(ids: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Residues of ids: different for all ids below the product of coprime sizes (Chinese remainder theorem)."""
    return [ids % size for size in sizes]


def cell_codes(columns: Sequence[Sequence[Any]]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Partitions by what the user knows of the ids (brand, colour, year), made complementary.

    One more partition numbers the ids inside each cell of equal values, in the order of ids; where every cell holds one
    id it is left out.

    Args:
        columns: each a value for every id; strings or numbers.

    Returns:
        Codes int64 [rows, partitions] and the partitions' sizes.
    """
    if not columns or len({len(column) for column in columns}) != 1 or len(columns[0]) == 0:
        raise BadInput(f"columns must be of one length, at least 1; got lengths {[len(c) for c in columns]}")
    numbered = [np.unique(np.asarray(column), return_inverse=True)[1].reshape(-1) for column in columns]
    codes = np.stack(numbered, 1).astype(np.int64)
    _, cell = np.unique(codes, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    order = np.argsort(cell, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(cell[order])) + 1]
    lengths = np.diff(np.r_[starts, len(cell)])
    inside = np.empty(len(cell), dtype=np.int64)
    inside[order] = np.arange(len(cell)) - np.repeat(starts, lengths)
    if lengths.max() > 1:
        codes = np.concatenate([codes, inside[:, None]], 1)
    return codes, tuple(int(size) + 1 for size in codes.max(0))
