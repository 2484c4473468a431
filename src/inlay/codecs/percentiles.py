"""Equal shares: a number as the bin it falls in, of 2^bits bins of a dimension that hold equally many rows.

The percentile quantiser of CoRECT (arXiv 2510.19340). The 2^bits − 1 cuts of a dimension are its inner quantiles (those
at 0 and 100 % are no cuts). A code stands for the mean of the rows in its bin, which no value represents with a smaller
squared error. CoRECT takes the number of the bin for the value; `faithful=True` does so, on both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from inlay.codecs.fitted import Fitted, Linear, Tables, checked_query
from inlay.codecs.product import pack_codes, unpack_codes
from inlay.codecs.steps import check_bits
from inlay.kernels.code_scan import score

__all__ = ["Percentiles"]

SAMPLE = 100_000  # rows that cuts are found from at most


class Percentiles(Fitted):
    """Numbers in 2, 4 or 8 bits, in bins of equal frequency.

    Args:
        bits: of a number.
        faithful: compare the numbers of bins on both sides, as CoRECT does; decoding then gives those.
    """

    KIND = "percentiles codec"

    def __init__(self, bits: int = 8, *, faithful: bool = False) -> None:
        super().__init__()
        check_bits(bits)
        self.bits, self.faithful = int(bits), bool(faithful)
        self.cuts = np.zeros((0, 0), dtype=np.float32)  # [dim, 2^bits - 1], rising
        self.values = np.zeros((0, 0), dtype=np.float32)  # [dim, 2^bits], what each bin stands for

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {"bits": self.bits, "faithful": self.faithful}

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt: cuts and values."""
        return {"cuts": self.cuts, "values": self.values}

    def _learn(self, rows: np.ndarray) -> None:
        if len(rows) > SAMPLE:
            rows = rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]
        bins = 1 << self.bits
        shares = np.arange(1, bins) / bins
        self.cuts = np.empty((rows.shape[1], bins - 1), dtype=np.float32)
        self.values = np.empty((rows.shape[1], bins), dtype=np.float32)
        for column, cuts, values in zip(rows.T, self.cuts, self.values):
            cuts[:] = np.quantile(column, shares)
            own = np.searchsorted(cuts, column, side="right")
            held = np.bincount(own, minlength=bins)
            sums = np.bincount(own, weights=column, minlength=bins)
            # A bin between equal cuts, or outside a sample that has fewer rows than bins, stands for its lower cut.
            below = np.concatenate([cuts[:1], cuts])
            values[:] = np.where(held > 0, sums / np.maximum(held, 1), below)

    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        cuts, values = (np.array(arrays[name], dtype=np.float32) for name in ("cuts", "values"))
        bins = 1 << self.bits
        if cuts.shape != (dim, bins - 1) or values.shape != (dim, bins) or (np.diff(cuts, axis=1) < 0).any():
            raise ValueError(f"cuts {list(cuts.shape)} and values {list(values.shape)}")
        self.cuts, self.values = cuts, values

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of bins, uint8 [n, dim]; a number that equals a cut belongs above it."""
        rows = self._fitting(rows)
        found = np.empty(rows.shape, dtype=np.uint8)
        for j, cuts in enumerate(self.cuts):
            found[:, j] = np.searchsorted(cuts, rows[:, j], side="right")
        return found

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Codes, uint8 [n, ⌈dim · bits / 8⌉]."""
        return pack_codes(self.numbers(rows), self.bits)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]: the means of the bins; their numbers where it is faithful."""
        numbers = unpack_codes(self._codes(codes), self.bits, self.dim)
        if self.faithful:
            return numbers.astype(np.float32)
        return self.values[np.arange(self.dim), numbers]

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return -(-dim * self.bits // 8)

    def tables(self, query: np.ndarray) -> Tables:
        """What each bin contributes in each dimension."""
        query = checked_query(query, self.width_of_rows)
        if not self.faithful:
            return Tables(query[:, None] * self.values, self.bits)
        return Tables(np.outer(self.numbers(query[None])[0], np.arange(1 << self.bits)).astype(np.float32), self.bits)

    def linear(self, query: np.ndarray) -> Linear | None:
        """None: bins are no multiples of a step."""
        return None

    def scorer(self, query: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]; codes are not decoded."""
        view = self.tables(query)
        return lambda codes: score(view, self._codes(codes))
