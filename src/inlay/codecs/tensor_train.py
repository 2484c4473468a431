"""A matrix as a train of three small tensors (TT), found by two randomised singular value decompositions.

From the benchmark of arXiv 2311.15578; decomposition by Oseledets, "Tensor-Train Decomposition" (SISC 2011), randomised
range finder by Halko, Martinsson, Tropp (arXiv 0909.4061).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from inlay import sealed
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput

__all__ = ["TensorTrain", "TrainCodes", "factors_of"]

KIND = "tensor train"


class TrainCodes(NamedTuple):
    """Cores [n1, d1, r], [r, n2, d2, r] and [r, n3, d3] of a matrix of `rows` rows."""

    first: np.ndarray
    second: np.ndarray
    third: np.ndarray
    rows: int

    @property
    def nbytes(self) -> int:
        """Bytes of the cores."""
        return self.first.nbytes + self.second.nbytes + self.third.nbytes


class TensorTrain:
    """Rows [n, dim] as a tensor [n1 d1, n2 d2, n3 d3] ≈ G1 · G2 · G3, of rank r.

    A row's number has digits i1, i2, i3 and a column's j1, j2, j3; a value is G1[i1, j1] · G2[i2, j2] · G3[i3, j3].
    What is encoded is a matrix as a whole: where a row stands matters, and neighbours share cores. `fit` only chooses
    factors and rank from the size; `encode` decomposes, padding with zeros to n1 n2 n3 rows.

    Args:
        budget: bytes of the cores, as a share of float32 rows.
        oversample: columns more than the rank in the random projections.
        power: power iterations of the range finder.
        seed: of the projections.
    """

    def __init__(self, budget: float, *, oversample: int = 8, power: int = 2, seed: int = 0) -> None:
        if not 0 < budget <= 1:
            raise BadInput(f"budget must be a share above 0 and up to 1, got {budget}")
        self.budget, self.oversample, self.power, self.seed = float(budget), oversample, power, seed
        self.rows, self.dim, self.rank = 0, 0, 0
        self.of_rows = self.of_dim = (1, 1, 1)

    def __repr__(self) -> str:
        return f"TensorTrain({self.budget:g})"

    def fit(self, rows: np.ndarray) -> Self:
        """Choose factors and rank for matrices of this size."""
        rows = _finite(rows)
        n, dim = rows.shape
        if not n or not dim:
            raise BadInput(f"a tensor train needs rows and columns, got {n} x {dim}")
        of_rows, of_dim = _near_factors(n), factors_of(dim)
        (n1, n2, n3), (d1, d2, d3) = of_rows, of_dim
        room = self.budget * n * dim
        rank = 0
        while (n1 * d1 + n3 * d3) * (rank + 1) + n2 * d2 * (rank + 1) ** 2 <= room:
            rank += 1
        rank = min(rank, n1 * d1, n3 * d3)
        if rank < 1:
            raise BadInput(f"a budget of {self.budget:g} is too small for cores of rank 1 of {n} rows of {dim}")
        self.rows, self.dim, self.rank, self.of_rows, self.of_dim = n, dim, rank, of_rows, of_dim
        return self

    def encode(self, rows: np.ndarray) -> TrainCodes:
        """The cores of a matrix of the size `fit` saw."""
        rows = _finite(rows)
        if not self.rank:
            raise BadInput(f"{self!r} has learnt nothing yet; call fit(rows) first")
        if rows.shape != (self.rows, self.dim):
            raise BadInput(f"{self!r} was fitted for {self.rows} rows of {self.dim}, got {list(rows.shape)}")
        (n1, n2, n3), (d1, d2, d3) = self.of_rows, self.of_dim
        padded = np.zeros((n1 * n2 * n3, self.dim), dtype=np.float32)
        padded[: self.rows] = rows
        cube = padded.reshape(n1, n2, n3, d1, d2, d3).transpose(0, 3, 1, 4, 2, 5)
        random = np.random.default_rng(self.seed)
        first, rest = self._split(cube.reshape(n1 * d1, -1), random)
        second, third = self._split(rest.reshape(self.rank * n2 * d2, n3 * d3), random)
        return TrainCodes(
            first.reshape(n1, d1, -1), second.reshape(self.rank, n2, d2, -1), third.reshape(-1, n3, d3), self.rows
        )

    def _split(self, matrix: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """U [m, r] orthonormal and Uᵀ M [r, k] with U of the leading left singular vectors, by a random projection."""
        width = min(self.rank + self.oversample, *matrix.shape)
        sample = matrix @ random.standard_normal((matrix.shape[1], width), dtype=np.float32)
        q, _ = np.linalg.qr(sample)
        for _ in range(self.power):
            q, _ = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ q)[0])
        small = q.T @ matrix
        # Left singular vectors of the small matrix, by its Gram matrix: it is short and may be very long.
        _, vectors = np.linalg.eigh(small.astype(np.float64) @ small.T)
        u = (q @ vectors[:, ::-1][:, : self.rank]).astype(np.float32)
        return u, u.T @ matrix

    def decode(self, codes: TrainCodes, ids: np.ndarray | None = None) -> np.ndarray:
        """Float32 rows [n, dim], or those of ids."""
        ids = np.arange(codes.rows) if ids is None else np.asarray(ids)
        n2, n3 = codes.second.shape[1], codes.third.shape[1]
        found = np.empty((len(ids), self.dim), dtype=np.float32)
        for low in range(0, len(ids), 4096):
            some = ids[low : low + 4096]
            i3, i2, i1 = some % n3, some // n3 % n2, some // (n2 * n3)
            left = np.matmul(
                codes.first[i1], codes.second[:, i2].transpose(1, 0, 2, 3).reshape(len(some), len(codes.second), -1)
            )
            left = left.reshape(len(some), -1, codes.third.shape[0])
            found[low : low + 4096] = np.matmul(left, codes.third[:, i3].transpose(1, 0, 2)).reshape(len(some), -1)
        return found

    def nbytes(self, dim: int) -> int:
        """Bytes of one row: its share of the cores, which belong to all."""
        return -(-self.core_nbytes // max(self.rows, 1))

    @property
    def core_nbytes(self) -> int:
        """Bytes of the cores of one matrix."""
        (n1, n2, n3), (d1, d2, d3), r = self.of_rows, self.of_dim, self.rank
        return 4 * (n1 * d1 * r + n2 * d2 * r * r + n3 * d3 * r)

    @property
    def codebook_nbytes(self) -> int:
        """Nothing besides the cores, which are the codes."""
        return 0

    def save(self, path: str | Path) -> Path:
        """Write what was chosen to one file."""
        if not self.rank:
            raise BadInput(f"{self!r} has learnt nothing yet; call fit(rows) first")
        settings = {"budget": self.budget, "oversample": self.oversample, "power": self.power, "seed": self.seed}
        arrays = {"chosen": np.array([self.rows, self.dim, self.rank, *self.of_rows, *self.of_dim])}
        return sealed.write(path, arrays, {"kind": KIND, "settings": settings})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        made = cls(**facts["settings"])
        made.rows, made.dim, made.rank, *factors = (int(number) for number in arrays["chosen"])
        made.of_rows, made.of_dim = tuple(factors[:3]), tuple(factors[3:])  # type: ignore[assignment]
        return made


def factors_of(number: int) -> tuple[int, int, int]:
    """Three factors of a number, rising, as near to each other as they can be: 384 → 6, 8, 8."""
    best = (1, 1, number)
    for a in range(1, round(number ** (1 / 3)) + 2):
        if number % a:
            continue
        rest = number // a
        for b in range(a, int(rest**0.5) + 1):
            if rest % b == 0 and rest // b - a < best[2] - best[0]:
                best = (a, b, rest // b)
    return best


def _near_factors(number: int) -> tuple[int, int, int]:
    """Three numbers of about the cube root whose product is at least `number` and hardly more."""
    root = max(1, round(number ** (1 / 3)))
    second = max(1, round((number / root) ** 0.5))
    return root, second, -(-number // (root * second))
