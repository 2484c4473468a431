"""Vectors that people bring with their documents, of any kind, checked before anything is written.

Dense rows are an array [n, dim], sparse ones `Sparse` or scipy CSR, multi-vectors `Ragged`, a list of arrays
[tokens, dim], or an array [n, tokens, dim] where every document has as many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from inlay.codecs.ragged import checked_ragged
from inlay.errors import BadInput, SpaceMismatch
from inlay.types import Kind, Ragged, Sparse, Vectors

__all__ = ["Brought", "one"]


class Brought:
    """Rows of one kind, one for each document.

    Args:
        vectors: see the module.

    Raises:
        BadInput: no rows of any kind; the message says of what it is.
    """

    def __init__(self, vectors: Any) -> None:
        self.rows: Any
        self.kind: Kind
        if isinstance(vectors, Sparse) or hasattr(vectors, "tocsr"):
            self.kind, self.rows = "sparse", _sparse(vectors)
            self.dim = self.rows.shape[1]
        elif isinstance(vectors, Ragged) or _is_bags(vectors):
            self.kind, self.rows = "multi", _bags(vectors)
            self.dim = int(self.rows.values.shape[1])
        else:
            self.kind, self.rows = "dense", _dense(vectors)
            self.dim = int(self.rows.shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def finite(self) -> np.ndarray:
        """Whether each row is of finite numbers, bool [n]."""
        if self.kind == "dense":
            # One pass over all: asking each row by itself takes longer than reading it.
            return np.isfinite(self.rows.sum(axis=1, dtype=np.float64))
        if self.kind == "sparse":
            return _of_rows(~np.isfinite(self.rows.data), self.rows.indptr)
        return _of_rows(~np.isfinite(self.rows.values.sum(axis=1, dtype=np.float64)), self.rows.offsets)

    def take(self, places: list[int]) -> Brought:
        """Some of the rows."""
        made = Brought.__new__(Brought)
        made.kind, made.dim, made.rows = self.kind, self.dim, pick(self.rows, places)
        return made

    def mark(self, row: int) -> bytes:
        """What tells one row from another."""
        if self.kind == "sparse":
            low, high = self.rows.indptr[row : row + 2]
            return self.rows.indices[low:high].astype(np.int64).tobytes() + self.rows.data[low:high].tobytes()
        return bytes(self.rows[row].tobytes())


def pick(rows: Vectors, places: list[int]) -> Vectors:
    """Some of the rows, of any kind."""
    if not isinstance(rows, Ragged):
        return rows[places]
    bags = [rows[place] for place in places]
    offsets = np.cumsum([0, *map(len, bags)], dtype=np.int64)
    return Ragged(np.concatenate([rows.values[:0], *bags]), offsets)


def one(vector: Any, kind: Kind, dim: int) -> Any:
    """A query's own vector: float32 [dim], float32 [tokens, dim], or a `Sparse` of one row.

    Raises:
        BadInput: no vector of that kind.
        SpaceMismatch: of another width.
    """
    if kind == "sparse" and (isinstance(vector, Sparse) or hasattr(vector, "tocsr")):
        rows = _sparse(vector)
        if len(rows) != 1:
            raise BadInput(f"a query is one sparse row, got {len(rows)}")
        if dim and rows.shape[1] != dim:
            raise SpaceMismatch(f"the query vector has {rows.shape[1]} dimensions, the collection has {dim}")
        if not np.isfinite(rows.data).all():
            raise BadInput("the query's vector has NaN or infinite elements")
        return rows
    try:
        if np.iscomplexobj(vector):
            raise TypeError("complex ones would lose half of what they are")
        row = np.asarray(vector, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the query vector must be a list of numbers: {error}") from None
    if kind == "multi":
        if row.ndim != 2:
            raise BadInput(f"a query of several vectors has the shape [tokens, dim], got {list(row.shape)}")
    else:
        row = row.reshape(-1)
    if row.shape[-1] != dim:
        raise SpaceMismatch(f"the query vector has {row.shape[-1]} dimensions, the collection has {dim}")
    if not np.isfinite(row).all():
        raise BadInput("the query's vector has NaN or infinite elements")
    return Sparse.from_dense(row[None]) if kind == "sparse" else row


def _of_rows(bad: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rows none of whose elements is bad."""
    seen = np.concatenate([[0], np.cumsum(bad)])[offsets]
    fine: np.ndarray = np.diff(seen) == 0
    return fine


def _is_bags(vectors: Any) -> bool:
    if isinstance(vectors, np.ndarray):
        return vectors.ndim == 3
    if not isinstance(vectors, list | tuple) or not vectors:
        return False
    try:
        return np.ndim(vectors[0]) == 2
    except ValueError:
        return True  # lists of lists of no common length: whatever is wrong with them, they are no row of numbers


def _bags(vectors: Any) -> Ragged:
    bags = checked_ragged(list(vectors) if isinstance(vectors, np.ndarray) else vectors, finite=False)
    if not bags.values.shape[1]:
        raise BadInput("vectors must have the shape [tokens, dim], got no dimension")
    return bags


def _sparse(vectors: Any) -> Sparse:
    rows = Sparse.of(vectors)
    if not rows.shape[1]:
        raise BadInput("sparse vectors must have the shape [documents, dim], got no dimension")
    if rows.indices.dtype.kind not in "iu":
        raise BadInput(f"columns of sparse vectors are integers, got {rows.indices.dtype}")
    if len(rows.indices) and (rows.indices.min() < 0 or rows.indices.max() >= rows.shape[1]):
        raise BadInput(
            f"columns of sparse vectors are 0 to {rows.shape[1] - 1}, got {rows.indices.min()} to {rows.indices.max()}"
        )
    starts = np.zeros(len(rows.indices) + 1, dtype=bool)
    starts[rows.indptr] = True
    if not ((np.diff(rows.indices.astype(np.int64)) > 0) | starts[1:-1]).all():
        raise BadInput("columns of a sparse vector must ascend; sort them and sum duplicates first")
    return rows


def _dense(vectors: Any) -> np.ndarray:
    try:
        if np.iscomplexobj(vectors):
            raise TypeError("complex ones would lose half of what they are")
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"vectors must be numbers in rows of equal length: {error}") from None
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise BadInput(f"vectors must have the shape [documents, dim], got {list(rows.shape)}")
    return rows
