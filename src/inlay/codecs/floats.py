"""Numbers as smaller floats: bfloat16 in two bytes, float8 in one, float4 in half of one.

A float keeps its relative precision over many octaves, so a cast needs no calibration but one: where the numbers lie.
Components of unit rows are small (.036 of 768), near the end of e4m3 and below the smallest e2m1: one power of two for
all, found from the 99.9th percentile of their magnitudes, brings them near the upper end of the format, costs no digit
and changes no cosine. What lies above the largest number of the format is set to it; rounding is to nearest, ties to
even.

- e4m3 (OCP "fn"): bias 7, largest 448, smallest normal 2⁻⁶, steps of 2⁻⁹ below.
- e5m2: bias 15, largest 57,344, smallest normal 2⁻¹⁴, steps of 2⁻¹⁶ below.
- e2m1: 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives.

Source: "Optimization of embeddings storage for RAG systems …" (arXiv 2505.00105), where e4m3 costs no quality at a
quarter of the bytes, and unscaled e2m1 turns every number of a unit row into 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import numpy as np

from inlay.codecs.fitted import Fitted, Linear, Tables, checked_query
from inlay.codecs.product import pack_codes, unpack_codes
from inlay.errors import BadInput
from inlay.kernels.code_scan import score, widened

__all__ = ["BFloat16", "Float4", "Float8"]

Format: TypeAlias = Literal["e4m3", "e5m2"]
# Bits of the fraction, bias, and the largest number.
LAYOUTS = {"e4m3": (3, 7, 448.0), "e5m2": (2, 15, 57344.0), "e2m1": (1, 1, 6.0)}
# Octaves between the 99.9th percentile and the largest number: none where steps are coarse and every octave counts, two
# where they cost nothing and keep the few larger numbers whole.
SPARE = {"e4m3": 2, "e5m2": 2, "e2m1": 0}
PERCENTILE = 99.9
SAMPLE = 4_000_000  # numbers that the percentile is taken of at most


class BFloat16(Fitted):
    """The upper half of a float32: 2 bytes a number, 8 significant bits, the range of float32. Nothing is learnt."""

    KIND = "bfloat16 codec"

    def _learn(self, rows: np.ndarray) -> None:
        pass

    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        pass

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """The upper halves, uint16 [n, dim]."""
        bits = np.ascontiguousarray(self._fitting(rows)).view(np.uint32)
        # Numbers within half a step of infinity are set to the largest.
        codes = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
        return np.where(codes & 0x7FFF == 0x7F80, codes - 1, codes).astype(np.uint16)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]."""
        return widened(self._codes(codes, np.uint16), "bfloat16")

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return 2 * dim

    def linear(self, query: np.ndarray) -> Linear:
        """The query itself."""
        return Linear("bfloat16", checked_query(query, self.width_of_rows))

    def scorer(self, query: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]; codes are not decoded."""
        view = self.linear(query)
        return lambda codes: score(view, self._codes(codes, np.uint16))


class _Scaled(Fitted):
    """A float format with one power of two for all numbers."""

    format: str
    SCALES: ClassVar[str] = "auto"

    def __init__(self, scale: float | str) -> None:
        super().__init__()
        if scale != "auto" and (
            isinstance(scale, bool | str) or not isinstance(scale, int | float | np.number) or not 0 < scale < math.inf
        ):
            raise BadInput(f"scale must be 'auto' or a positive number, got {scale!r}")
        self.scale: float | str = scale if scale == "auto" else float(scale)
        self.factor = 1.0 if scale == "auto" else float(scale)  # what numbers are multiplied with

    def _learn(self, rows: np.ndarray) -> None:
        if self.scale == "auto":
            self.factor = power_of_two(rows, LAYOUTS[self.format][2] * 2.0 ** -SPARE[self.format])

    def arrays(self) -> dict[str, np.ndarray]:
        """The factor."""
        return {"factor": np.array([self.factor], dtype=np.float32)}

    def _take(self, arrays: dict[str, np.ndarray], dim: int) -> None:
        (self.factor,) = (float(one) for one in arrays["factor"])
        if not 0 < self.factor < math.inf:
            raise ValueError(f"a factor of {self.factor}")


class Float8(_Scaled):
    """One byte a number.

    Args:
        format: `e4m3` (4 significant bits) or `e5m2` (3, and a larger range).
        scale: what numbers are multiplied with before they are cast; `auto` finds a power of two, 1 is the plain cast.
    """

    KIND = "float8 codec"

    def __init__(self, format: Format = "e4m3", scale: float | str = "auto") -> None:
        if format not in get_args(Format):
            raise BadInput(f"format must be one of {', '.join(get_args(Format))}, got {format!r}")
        self.format = format
        super().__init__(scale)

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {"format": self.format, "scale": self.scale}

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Codes, uint8 [n, dim]."""
        return cast(self._fitting(rows) * np.float32(self.factor), self.format)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]."""
        return widened(self._codes(codes), self.format) / np.float32(self.factor)

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return dim

    def linear(self, query: np.ndarray) -> Linear:
        """The query over the factor."""
        return Linear(self.format, checked_query(query, self.width_of_rows) / np.float32(self.factor))

    def scorer(self, query: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]; codes are not decoded."""
        view = self.linear(query)
        return lambda codes: score(view, self._codes(codes))


class Float4(_Scaled):
    """Half a byte a number: sixteen values, e2m1, two in a byte.

    Args:
        scale: what numbers are multiplied with before they are cast; `auto` finds a power of two. Without one (1), all
            numbers of a unit row may become 0.
    """

    KIND = "float4 codec"

    def __init__(self, scale: float | str = "auto") -> None:
        self.format = "e2m1"
        super().__init__(scale)

    def settings(self) -> dict[str, Any]:
        """The keyword arguments that make it again."""
        return {"scale": self.scale}

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Codes, uint8 [n, ⌈dim / 2⌉], the first number of a byte in its lower half."""
        return pack_codes(cast(self._fitting(rows) * np.float32(self.factor), "e2m1"), 4)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float32 rows [n, dim]."""
        return (values_of("e2m1") / np.float32(self.factor))[unpack_codes(self._codes(codes), 4, self.dim)]

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return -(-dim // 2)

    def tables(self, query: np.ndarray) -> Tables:
        """What each of the sixteen values contributes in each dimension."""
        query = checked_query(query, self.width_of_rows)
        return Tables(np.outer(query, values_of("e2m1") / np.float32(self.factor)), 4)

    def scorer(self, query: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]; codes are not decoded."""
        view = self.tables(query)
        return lambda codes: score(view, self._codes(codes))


def cast(numbers: np.ndarray, format: str) -> np.ndarray:
    """Float32 numbers as codes of a format, uint8: to nearest, ties to even, at most its largest number."""
    fraction, bias, most = LAYOUTS[format]
    drop = 23 - fraction
    sizes = np.minimum(np.abs(np.asarray(numbers, dtype=np.float32)), np.float32(most))
    bits = sizes.view(np.uint32) if sizes.ndim else sizes.reshape(1).view(np.uint32)
    # The exponent's bias of float32 becomes the format's; a carry out of the fraction raises the exponent by itself.
    codes = (bits + np.uint32((1 << (drop - 1)) - 1) + (bits >> drop & 1)) >> drop
    codes -= np.uint32((127 - bias) << fraction)
    step = np.float32(2.0 ** (1 - bias - fraction))
    small = sizes < np.float32(2.0 ** (1 - bias))
    codes = np.where(small, np.rint(sizes / step).astype(np.uint32), codes)
    sign = np.uint32(1 << ((4 if format == "e2m1" else 8) - 1))
    return (codes | np.where(np.signbit(numbers), sign, np.uint32(0))).astype(np.uint8)


def values_of(format: str) -> np.ndarray:
    """The value of every code, float32 [256] or [16]; those of e4m3's NaN and e5m2's infinities are never written."""
    if format in ("e4m3", "e5m2"):
        return widened(np.arange(256, dtype=np.uint8), format)
    positive = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
    return np.concatenate([positive, -positive])


def power_of_two(rows: np.ndarray, most: float) -> float:
    """The largest power of two that keeps the 99.9th percentile of the magnitudes of rows at or below `most`."""
    numbers = np.abs(rows).ravel()
    if len(numbers) > SAMPLE:
        numbers = numbers[:: -(-len(numbers) // SAMPLE)]
    size = float(np.percentile(numbers, PERCENTILE))
    if size <= 0:
        size = float(np.abs(rows).max())
    # Factors of float32 and their reciprocals; beyond that, rows are zero for every purpose.
    return 2.0 ** min(100, max(-100, math.floor(math.log2(most / size)))) if size > 0 else 1.0
