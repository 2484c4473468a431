"""Fewer dimensions without looking at the rows: the leading ones, or a random projection.

`Truncate` is for models that were trained for it (Matryoshka), whose leading dimensions carry most; of another model it
keeps what the dimensions happen to hold. A Gaussian random projection keeps dot products in expectation, with an error
of about 1 / √width of the lengths (Johnson and Lindenstrauss), whatever the rows.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from inlay.errors import BadInput
from inlay.spaces.affine import AffineMap, checked

__all__ = ["RandomProjection", "Truncate"]


class Truncate(AffineMap):
    """The leading numbers of each row.

    Args:
        dims: how many. Rows that are compared by cosine are scaled to length 1 again by whoever compares them.
    """

    KIND = "truncation"

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = _count("dims", dims)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {"dims": self.dims}

    @property
    def nbytes(self) -> int:
        """Nothing has to be kept."""
        return 0

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Take the width of rows [n, dim]."""
        dim = checked(X).shape[1]
        if self.dims > dim:
            raise BadInput(f"rows of {dim} numbers cannot be cut to {self.dims}; take at most {dim}")
        self._set(np.zeros(dim), np.eye(dim, self.dims))
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Float32 [n, dims]."""
        return np.ascontiguousarray(self._fitting(X, len(self.mean))[:, : self.dims])

    def _back(self) -> np.ndarray:
        return self.matrix.T

    def arrays(self) -> dict[str, np.ndarray]:
        """The width of the rows it was fitted for."""
        return {"dim": np.array([len(self.mean)], dtype=np.int64)}

    def _take(self, arrays: dict[str, np.ndarray]) -> None:
        (dim,) = (int(one) for one in arrays["dim"])
        if dim < self.dims or dim > 1 << 24:
            raise ValueError(f"{self.dims} dimensions of {dim}")
        self._set(np.zeros(dim), np.eye(dim, self.dims))


class RandomProjection(AffineMap):
    """Rows times a matrix of independent normal numbers of variance 1 / width.

    Args:
        dims: numbers of a row that comes out.
        seed: of the matrix.
    """

    KIND = "random projection"

    def __init__(self, dims: int, *, seed: int = 0) -> None:
        super().__init__()
        self.dims = _count("dims", dims)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise BadInput(f"seed must be a whole number from 0 on, got {seed!r}")
        self.seed = int(seed)

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments that make it again."""
        return {"dims": self.dims, "seed": self.seed}

    def fit(self, X: np.ndarray, Y: np.ndarray | None = None) -> Self:
        """Draw a matrix for rows [n, dim]."""
        dim = checked(X).shape[1]
        matrix = np.random.default_rng(self.seed).standard_normal((dim, self.dims)) / np.sqrt(self.dims)
        self._set(np.zeros(dim), matrix)
        return self


def _count(name: str, number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise BadInput(f"{name} must be a positive whole number, got {number!r}")
    return int(number)
