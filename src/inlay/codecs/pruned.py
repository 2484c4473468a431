"""Only the largest numbers of a matrix: magnitude pruning into compressed rows, or coordinates when few are left."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from inlay import sealed
from inlay.codecs.scalar import _finite
from inlay.errors import BadInput

__all__ = ["Pruned", "SparseCodes"]

KIND = "magnitude pruning"


class SparseCodes(NamedTuple):
    """Numbers kept and where: `at` holds offsets int32 [n + 1] (CSR), or each number's row int32 [kept] (COO)."""

    values: np.ndarray
    columns: np.ndarray
    at: np.ndarray
    shape: tuple[int, int]
    csr: bool

    @property
    def nbytes(self) -> int:
        """Bytes of values, columns (int16) and offsets or rows."""
        return self.values.nbytes + self.columns.nbytes + self.at.nbytes


class Pruned:
    """Numbers below one magnitude, the same for all rows, become zeros.

    `fit` learns the magnitude at which the rows fit the budget: in CSR a number costs 6 bytes and a row 4, in COO a
    number 10, so COO wins below one number a row. Rows encoded later are cut at the same magnitude.

    Args:
        budget: bytes, as a share of float32 rows.
    """

    def __init__(self, budget: float) -> None:
        if not 0 < budget <= 1:
            raise BadInput(f"budget must be a share above 0 and up to 1, got {budget}")
        self.budget = float(budget)
        self.threshold = -1.0
        self.dim = 0

    def __repr__(self) -> str:
        return f"Pruned({self.budget:g})"

    def fit(self, rows: np.ndarray) -> Self:
        """Learn the magnitude from rows [n, dim]."""
        rows = _finite(rows)
        n, dim = rows.shape
        if not n or not 1 <= dim < 1 << 15:
            raise BadInput(f"pruning takes at least one row, of 1 to 32,767 numbers, got {n} of {dim}")
        room = self.budget * 4 * n * dim
        keep = max(int((room - 4 * (n + 1)) // 6), min(int(room // 10), n), 0)
        if keep < 1:
            raise BadInput(f"a budget of {self.budget:g} leaves no number of {n} rows of {dim}")
        size = np.abs(rows).ravel()
        if keep >= size.size:
            self.threshold = 0.0
        else:
            largest_out = np.partition(size, size.size - keep - 1)[size.size - keep - 1]
            self.threshold = float(largest_out)  # kept: above it; ties with it go
        self.dim = dim
        return self

    def encode(self, rows: np.ndarray) -> SparseCodes:
        """Numbers above the magnitude, in the smaller form."""
        rows = _finite(rows)
        if not self.dim:
            raise BadInput(f"{self!r} has learnt nothing yet; call fit(rows) first")
        if rows.shape[1] != self.dim:
            raise BadInput(f"{self!r} was fitted on rows of {self.dim} numbers, got {rows.shape[1]}")
        row, column = np.nonzero(np.abs(rows) > np.float32(self.threshold))
        csr = len(row) > len(rows)
        at = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(rows)))]) if csr else row
        return SparseCodes(rows[row, column], column.astype(np.int16), at.astype(np.int32), rows.shape, csr)

    def decode(self, codes: SparseCodes, ids: np.ndarray | None = None) -> np.ndarray:
        """Float32 rows [n, dim], or those of ids."""
        n, dim = codes.shape
        if ids is None:
            found = np.zeros((n, dim), dtype=np.float32)
            row = np.repeat(np.arange(n), np.diff(codes.at)) if codes.csr else codes.at
            found[row, codes.columns] = codes.values
            return found
        ids = np.asarray(ids)
        starts = codes.at[ids] if codes.csr else np.searchsorted(codes.at, ids)
        stops = codes.at[ids + 1] if codes.csr else np.searchsorted(codes.at, ids, side="right")
        found = np.zeros((len(ids), dim), dtype=np.float32)
        for i, (start, stop) in enumerate(zip(starts, stops)):
            found[i, codes.columns[start:stop]] = codes.values[start:stop]
        return found

    def nbytes(self, dim: int) -> int:
        """Bytes of one row on average, of the rows it was fitted on and at most."""
        return int(np.ceil(self.budget * 4 * dim))

    @property
    def codebook_nbytes(self) -> int:
        """Nothing is shared."""
        return 0

    def save(self, path: str | Path) -> Path:
        """Write the magnitude to one file."""
        if not self.dim:
            raise BadInput(f"{self!r} has learnt nothing yet; call fit(rows) first")
        facts = {"kind": KIND, "settings": {"budget": self.budget}, "dim": self.dim}
        return sealed.write(path, {"threshold": np.array([self.threshold])}, facts)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(path, KIND)
        made = cls(**facts["settings"])
        made.threshold, made.dim = float(arrays["threshold"][0]), int(facts["dim"])
        return made
