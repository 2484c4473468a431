"""Three values a dimension: well below the mean, near it, well above it; two bits each, four numbers in a byte.

Of normal numbers, the three values that lose least are 0 and ±1.224 standard deviations, with cuts at ±0.612 (Max,
"Quantizing for Minimum Distortion", 1960): 81 % of the variance is kept, where one bit keeps 64 %.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inlay.codecs.fitted import Fitted, Tables, checked_query
from inlay.codecs.product import pack_codes, unpack_codes
from inlay.errors import BadInput
from inlay.kernels.code_scan import score

__all__ = ["Ternary"]

CUT = 0.612  # standard deviations from the mean


class Ternary(Fitted):
    """−1, 0 or +1 for each number.

    Args:
        cut: how many standard deviations from its dimension's mean a number has to lie to count.
    """

    KIND = "ternary codec"

    def __init__(self, cut: float = CUT) -> None:
        super().__init__()
        if isinstance(cut, bool) or not isinstance(cut, int | float | np.number) or not 0 < cut < 10:
            raise BadInput(f"cut must be a number of standard deviations between 0 and 10, got {cut!r}")
        self.cut = float(cut)
        self.mean = np.zeros(0, dtype=np.float32)  # [dim]
        self.reach = np.zeros(0, dtype=np.float32)  # [dim], how far the cuts lie from the mean
        self.size = np.zeros(0, dtype=np.float32)  # [dim], how far the numbers beyond them lie from it on average

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {"cut": self.cut}

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt."""
        return {"mean": self.mean, "reach": self.reach, "size": self.size}

    def _learn(self, rows: np.ndarray) -> None:
        self.mean = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.reach = (self.cut * rows.std(axis=0, dtype=np.float64)).astype(np.float32)
        away = np.abs(rows - self.mean)
        beyond = away > self.reach
        sums = np.where(beyond, away, 0).sum(axis=0, dtype=np.float64)
        self.size = (sums / np.maximum(beyond.sum(axis=0), 1)).astype(np.float32)

    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        own = [np.array(arrays[name], dtype=np.float32) for name in ("mean", "reach", "size")]
        if any(one.shape != (dim,) for one in own):
            raise ValueError(f"{dim} dimensions, got {[list(one.shape) for one in own]}")
        self.mean, self.reach, self.size = own

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Packed codes, uint8 [n, ⌈dim / 4⌉]: 0 below, 1 near, 2 above."""
        away = self._fitting(rows) - self.mean
        return pack_codes((1 + (away > self.reach) - (away < -self.reach)).astype(np.uint8), 2)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]."""
        numbers = unpack_codes(self._codes(codes), 2, self.dim)
        return self.mean + self.size * (numbers.astype(np.float32) - 1)

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return -(-dim // 4)

    def tables(self, query: np.ndarray) -> Tables:
        """What each of the three values contributes; the fourth is never written."""
        query = checked_query(query, self.width_of_rows)
        constant = float(query.astype(np.float64) @ self.mean)
        return Tables(np.outer(query * self.size, np.array([-1, 0, 1, 0], dtype=np.float32)), 2, constant)

    def scorer(self, query: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]; codes are not decoded."""
        view = self.tables(query)
        return lambda codes: score(view, self._codes(codes))
