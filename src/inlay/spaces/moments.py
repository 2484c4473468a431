"""Moments of a space: how many rows, their sum, and the sum of their outer products, in one pass and in float64.

From these three come mean, covariance, principal axes, whitening, IsoScore and participation ratio; rows need not be
kept. Moments of two parts of a corpus add up to those of the whole (`+`), so that a corpus can be read in any order, in
blocks, and by several processes.

Sums are taken about an origin, which is the mean of the first block: of rows that lie far from zero, the covariance as
E[xxᵀ] − mean·meanᵀ would lose its digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.spaces.affine import checked

__all__ = ["Moments"]

KIND = "moments"
ROWS_AT_ONCE = 8192  # widened to float64 at a time


class Moments:
    """Sums over rows, to which rows are added.

    Attributes:
        n: rows seen.
        origin: float64 [dim], what is taken off every row before it is added.
        sums: float64 [dim], Σ (x − origin).
        products: float64 [dim, dim], Σ (x − origin)(x − origin)ᵀ.
    """

    def __init__(self) -> None:
        self.n = 0
        self.origin = np.zeros(0)
        self.sums = np.zeros(0)
        self.products = np.zeros((0, 0))

    @classmethod
    def of(cls, rows: np.ndarray) -> Self:
        """Of rows [n, dim]."""
        return cls().add(rows)

    def __repr__(self) -> str:
        return f"Moments(dim={self.dim}) of {self.n} rows"

    @property
    def dim(self) -> int:
        """Width of the rows; 0 before the first."""
        return len(self.sums)

    @property
    def mean(self) -> np.ndarray:
        """Float64 [dim]."""
        self._need(1)
        return self.origin + self.sums / self.n

    @property
    def covariance(self) -> np.ndarray:
        """Float64 [dim, dim], divided by n − 1."""
        self._need(2)
        return (self.products - np.outer(self.sums, self.sums) / self.n) / (self.n - 1)

    @property
    def second(self) -> np.ndarray:
        """Uncentred Σ xxᵀ / n, float64 [dim, dim]."""
        self._need(1)
        cross = np.outer(self.origin, self.sums)
        return (self.products + cross + cross.T) / self.n + np.outer(self.origin, self.origin)

    def principal(self) -> tuple[np.ndarray, np.ndarray]:
        """Variances float64 [dim] along the principal axes, largest first, and the axes as columns [dim, dim].

        The largest number of each axis is positive, so that rounding cannot turn one.
        """
        values, axes = np.linalg.eigh(self.covariance)
        values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
        signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        return values, axes * signs

    def add(self, rows: np.ndarray) -> Self:
        """Add rows [n, dim]."""
        rows = checked(rows)
        if self.n and rows.shape[1] != self.dim:
            raise SpaceMismatch(f"the moments are of rows of {self.dim} numbers, got {rows.shape[1]}")
        if not self.n and len(rows):
            dim = rows.shape[1]
            self.origin = rows[:ROWS_AT_ONCE].mean(axis=0, dtype=np.float64)
            self.sums, self.products = np.zeros(dim), np.zeros((dim, dim))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            block = rows[start : start + ROWS_AT_ONCE] - self.origin
            self.sums += block.sum(axis=0)
            self.products += block.T @ block
        self.n += len(rows)
        return self

    def __add__(self, other: Moments) -> Moments:
        """Of both parts together."""
        if not isinstance(other, Moments):
            return NotImplemented
        if not self.n or not other.n:
            return (self if self.n else other)._copy()
        if self.dim != other.dim:
            raise SpaceMismatch(f"moments of rows of {self.dim} and of {other.dim} numbers do not add up")
        made, shift = self._copy(), other.origin - self.origin
        cross = np.outer(shift, other.sums)
        made.sums += other.sums + other.n * shift
        made.products += other.products + cross + cross.T + other.n * np.outer(shift, shift)
        made.n += other.n
        return made

    def save(self, path: str | Path) -> Path:
        """Write the sums to one file."""
        self._need(1)
        arrays = {name: getattr(self, name) for name in ("origin", "sums", "products")}
        return sealed.write(path, arrays, {"kind": KIND, "n": self.n})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        made = cls()
        try:
            made.n = int(facts["n"])
            made.origin, made.sums, made.products = (
                np.array(arrays[name], dtype=np.float64) for name in ("origin", "sums", "products")
            )
            dim = len(made.sums)
            if made.n < 1 or made.origin.shape != (dim,) or made.products.shape != (dim, dim):
                raise ValueError(f"{made.n} rows, sums {list(made.sums.shape)}, products {list(made.products.shape)}")
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold moments ({error}); {sealed.REPAIR}") from None
        return made

    def _copy(self) -> Moments:
        made: Any = Moments()
        made.n = self.n
        made.origin, made.sums, made.products = self.origin.copy(), self.sums.copy(), self.products.copy()
        return made

    def _need(self, least: int) -> None:
        if self.n < least:
            raise BadInput(f"{self.n} rows have no such moment; add at least {least}")
