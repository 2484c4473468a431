"""Equal steps: a number as the count of steps it lies above the lower end of its dimension's range.

`EqualSteps` is the equal-distance scalar quantiser of CoRECT (arXiv 2510.19340) in 2, 4 or 8 bits: 2.5 % of the rows
are left out at either end of each dimension, what remains spans 2^bits − 1 steps, and code = ⌊(x − low) / step⌋ −
2^(bits − 1), held within its bits. Codes stand for the middle of their step, so that a dot product is that of whole
numbers with the query times the steps, and a constant.

CoRECT compares code numbers by their cosine and never decodes. That is another metric: it moves the origin to the
middle of each range and gives all dimensions the same spread, which helps some models and ruins others. `faithful=True`
does so, for reproduction; the default is to decode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from inlay.codecs.fitted import Fitted, Linear, Tables, checked_query
from inlay.codecs.product import pack_codes, unpack_codes
from inlay.errors import BadInput
from inlay.kernels.code_scan import score

__all__ = ["EqualSteps"]

Per: TypeAlias = Literal["dimension", "all"]
TAILS = 0.025


class EqualSteps(Fitted):
    """Numbers in 2, 4 or 8 bits, in equal steps.

    Args:
        bits: of a number.
        tails: share of the rows that is left out at either end of a range; numbers beyond are held at its ends. 0 takes
            the least and the largest number seen (int8 as commonly calibrated).
        per: a range for each `dimension`, or one for `all` of them.
        faithful: compare code numbers on both sides, as CoRECT does; decoding then gives code numbers.
    """

    KIND = "equal steps codec"

    def __init__(self, bits: int = 8, *, tails: float = TAILS, per: Per = "dimension", faithful: bool = False) -> None:
        super().__init__()
        check_bits(bits)
        if isinstance(tails, bool) or not isinstance(tails, int | float | np.number) or not 0 <= tails < 0.5:
            raise BadInput(f"tails must be a share from 0 to below 0.5, got {tails!r}")
        if per not in get_args(Per):
            raise BadInput(f"per must be one of {', '.join(get_args(Per))}, got {per!r}")
        self.bits, self.tails, self.per, self.faithful = int(bits), float(tails), per, bool(faithful)
        self.low = np.zeros(0, dtype=np.float32)  # [dim], the lower end of each range
        self.step = np.zeros(0, dtype=np.float32)  # [dim]

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {"bits": self.bits, "tails": self.tails, "per": self.per, "faithful": self.faithful}

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt: the lower ends and the steps."""
        return {"low": self.low, "step": self.step}

    @property
    def half(self) -> int:
        """2^(bits − 1): what is taken off the count of steps."""
        return 1 << (self.bits - 1)

    def _learn(self, rows: np.ndarray) -> None:
        # Not what np.quantile interpolates: the least and the largest number of those that remain.
        among = rows if self.per == "dimension" else rows.reshape(-1, 1)
        skipped = min(int(self.tails * len(among)), (len(among) - 1) // 2)
        last = len(among) - 1 - skipped
        found = np.partition(among, sorted({skipped, last}), axis=0)
        low, high = (np.broadcast_to(found[place], rows.shape[1:]) for place in (skipped, last))
        step = (high.astype(np.float64) - low) / ((1 << self.bits) - 1)
        # A dimension that never varies: any step does, and a small one decodes to what it is.
        least = np.maximum(np.abs(low), 1e-30) * 1e-7
        self.low = np.array(low, dtype=np.float32)
        self.step = np.maximum(step, least).astype(np.float32)

    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        low, step = (np.array(arrays[name], dtype=np.float32) for name in ("low", "step"))
        if low.shape != (dim,) or step.shape != (dim,) or not (step > 0).all() or not np.isfinite(low).all():
            raise ValueError(f"{dim} ranges, got {list(low.shape)} and {list(step.shape)}")
        self.low, self.step = low, step

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Code numbers of rows, int8 [n, dim], from −2^(bits − 1) to 2^(bits − 1) − 1."""
        counts = np.floor((self._fitting(rows) - self.low) / self.step)
        return np.clip(counts - self.half, -self.half, self.half - 1).astype(np.int8)

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Code numbers int8 [n, dim] where they have 8 bits; else packed, uint8 [n, ⌈dim · bits / 8⌉]."""
        numbers = self.numbers(rows)
        return numbers if self.bits == 8 else pack_codes((numbers + self.half).astype(np.uint8), self.bits)

    def unpacked(self, codes: np.ndarray) -> np.ndarray:
        """Code numbers of codes, int8 [n, dim]."""
        if self.bits == 8:
            return self._codes(codes, np.int8)
        return (unpack_codes(self._codes(codes), self.bits, self.dim).astype(np.int16) - self.half).astype(np.int8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]: the middles of the steps; code numbers where it is faithful."""
        numbers = self.unpacked(codes).astype(np.float32)
        return numbers if self.faithful else numbers * self.step + self._middle()

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return -(-dim * self.bits // 8)

    def linear(self, query: np.ndarray) -> Linear | None:
        """The query times the steps, for codes of 8 bits."""
        if self.bits != 8:
            self._need()
            return None
        return Linear("int8", *self._folded(query))

    def tables(self, query: np.ndarray) -> Tables | None:
        """What each code contributes in each dimension, for 2 and 4 bits."""
        if self.bits == 8:
            self._need()
            return None
        vector, constant = self._folded(query)
        return Tables(np.outer(vector, np.arange(-self.half, self.half, dtype=np.float32)), self.bits, constant)

    def scorer(self, query: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]; codes are not decoded."""
        view = self.linear(query) or self.tables(query)
        assert view is not None
        dtype = np.int8 if self.bits == 8 else np.uint8
        return lambda codes: score(view, self._codes(codes, dtype))

    def _middle(self) -> np.ndarray:
        """What code number 0 stands for."""
        return self.low + np.float32(self.half + 0.5) * self.step

    def _folded(self, query: np.ndarray) -> tuple[np.ndarray, float]:
        query = checked_query(query, self.width_of_rows)
        if self.faithful:
            return self.numbers(query[None])[0].astype(np.float32), 0.0
        return query * self.step, float(query.astype(np.float64) @ self._middle())


def check_bits(bits: Any) -> None:
    """2, 4 or 8, or an error."""
    if isinstance(bits, bool) or bits not in (2, 4, 8):
        raise BadInput(f"bits must be 2, 4 or 8, got {bits!r}")
