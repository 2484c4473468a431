"""Each number of a row by itself: float32, float16, or int8 with one scale a row.

Nothing is learnt, so `fit` only returns the codec. Error of a decoded value x in a row whose largest is m:
float32 none; float16 |x| / 2048 (3e-8 at least); int8 m / 254, half a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from inlay.codecs.composable import Composable
from inlay.errors import BadInput
from inlay.kernels.code_scan import Linear, linear_scores

__all__ = ["Float16", "Float32", "Int8", "Quantised"]

STEPS = 127  # symmetric: -128 is never used, so that a negated row has negated codes


class Quantised(NamedTuple):
    """Int8 codes [n, dim] and what one step is worth in each row, float32 [n]."""

    codes: np.ndarray
    scales: np.ndarray


def _finite(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float32)
    if rows.ndim != 2:
        raise BadInput(f"expected rows [n, dim], got shape {rows.shape}")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise BadInput(f"row {row} holds NaN or infinity; codecs take finite rows")
    return rows


class _Plain(Composable):
    """A codec that learns nothing."""

    KIND: str  # of its numbers

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def fit(self, rows: np.ndarray) -> Self:
        return self

    def linear(self, query: np.ndarray) -> Linear:
        """The query itself: scores are its dot products with the numbers of codes (times their scales)."""
        query = np.asarray(query, dtype=np.float32)
        if query.ndim != 1 or not np.isfinite(query).all():
            raise BadInput(f"expected one finite query [dim], got shape {list(query.shape)}")
        return Linear(self.KIND, query)

    def scorer(self, query: np.ndarray) -> Callable[[Any], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]; codes are not decoded."""
        view = self.linear(query)
        return lambda codes: linear_scores([view], np.asarray(codes))[0]

    def settings(self) -> dict[str, Any]:
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        return {}

    @classmethod
    def restored(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        return cls(**settings)


class Float32(_Plain):
    """Rows as they are: 4 bytes a number."""

    KIND = "float32"

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Float32 [n, dim]."""
        return _finite(rows)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.asarray(codes, dtype=np.float32)

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return 4 * dim


class Float16(_Plain):
    """Half precision: 2 bytes a number, 11 significant bits, magnitudes up to 65504."""

    KIND = "float16"

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Float16 [n, dim]."""
        rows = _finite(rows)
        with np.errstate(over="ignore"):
            codes = rows.astype(np.float16)
        if np.isinf(codes).any():
            row = int(np.flatnonzero(np.isinf(codes).any(axis=1))[0])
            peak = np.abs(rows[row]).max()
            raise BadInput(f"row {row} reaches {peak:g}, float16 ends at 65504; scale the rows or keep float32")
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return np.asarray(codes).astype(np.float32)

    def nbytes(self, dim: int) -> int:
        """Bytes of one row."""
        return 2 * dim


class Int8(_Plain):
    """Symmetric int8: a row's largest magnitude becomes 127, and its scale is that magnitude / 127.

    A row costs dim + 4 bytes. Decoding is within half a step, max|x| / 254, of every value; of a dot product with a
    query q this leaves an error of about max|x| / 440 · |q|, as rounding errors of different columns cancel.
    """

    KIND = "int8"

    def scorer(self, query: np.ndarray) -> Callable[[Quantised], np.ndarray]:
        """A function from codes to float32 dot products [n] with a query [dim]; codes are not decoded."""
        view = self.linear(query)
        return lambda codes: linear_scores([view], codes.codes)[0] * codes.scales

    def encode(self, rows: np.ndarray) -> Quantised:
        """Codes and scales; a row of zeros has scale 0."""
        rows = _finite(rows)
        scales = np.abs(rows).max(axis=1, initial=0) / np.float32(STEPS)
        codes = rows / np.where(scales > 0, scales, np.float32(1))[:, None]
        # A scale so small that it lost bits of its own could push a code past 127.
        return Quantised(np.clip(np.rint(codes, out=codes), -STEPS, STEPS).astype(np.int8), scales)

    def decode(self, codes: Quantised) -> np.ndarray:
        numbers, scales = codes
        return numbers * np.asarray(scales, dtype=np.float32)[:, None]

    def nbytes(self, dim: int) -> int:
        """Bytes of one row: its codes and its scale."""
        return dim + 4
