"""Posting lists as an index: exact nearness of sparse rows by dot product.

`Postings` is the immutable column store that lexical segments are made of; `Inverted` collects rows into one and
fits the `Index` protocol.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.kernels import postings as kernel
from inlay.types import Neighbours, Sparse

__all__ = ["Inverted", "Postings"]

# (rows int32 [n], values [n]) -> impacts float32 [n]
Weigh: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Postings:
    """Columns of (row, value) pairs, searched exactly.

    Values may be kept raw and small, term frequencies for instance. `weigh` turns them into impacts when a query
    first touches their column, so the first query pays for its own terms only.

    Args:
        indptr: int64 [columns + 1]; column c spans `indptr[c]:indptr[c + 1]`.
        rows: int32 [nnz], ascending within a column.
        values: uint8, uint16 or float32 [nnz].
        n_rows: number of rows, of which some may have no postings.
        dims: int64 [columns] ascending: the dimension that each column stands for, where dimensions are open-ended.
            None if dimensions are the columns' own numbers.
        weigh: (rows, values) to float32 impacts; None takes values as they are.
    """

    def __init__(
        self,
        indptr: np.ndarray,
        rows: np.ndarray,
        values: np.ndarray,
        n_rows: int,
        *,
        dims: np.ndarray | None = None,
        weigh: Weigh | None = None,
    ) -> None:
        n_columns = len(indptr) - 1
        if n_columns < 0 or indptr[0] != 0 or indptr[-1] != len(rows) or len(rows) != len(values):
            raise BadInput(
                f"postings do not fit together: {len(indptr)} offsets, {len(rows)} rows, {len(values)} values"
            )
        if dims is not None and len(dims) != n_columns:
            raise BadInput(f"{n_columns} columns cannot stand for {len(dims)} dimensions; give one each")
        self.indptr = np.asarray(indptr, dtype=np.int64)
        self.rows = np.asarray(rows, dtype=np.int32)
        self.values = np.asarray(values)
        self.n_rows = int(n_rows)
        self.dims = None if dims is None else np.asarray(dims, dtype=np.int64)
        # Dimensions 0, 1, …, without a gap, are their columns' numbers.
        self._own_numbers = self.dims is not None and bool(n_columns) and self.dims[-1] == n_columns - 1
        self._own_numbers = self._own_numbers and self.dims is not None and self.dims[0] == 0
        self._weigh = weigh
        as_they_are = weigh is None and self.values.dtype == np.float32
        self._impacts = self.values if as_they_are else np.empty(len(values), dtype=np.float32)
        self._ready = np.zeros(n_columns, dtype=np.bool_)
        self._highest = np.zeros(n_columns, dtype=np.float32)
        self._lowest = np.zeros(n_columns, dtype=np.float32)

    @classmethod
    def from_rows(
        cls,
        indptr: np.ndarray,
        columns: np.ndarray,
        values: np.ndarray,
        n_columns: int,
        *,
        dims: np.ndarray | None = None,
        weigh: Weigh | None = None,
    ) -> Postings:
        """Turn CSR rows into columns."""
        if len(columns) and not (columns.min() >= 0 and columns.max() < n_columns):
            raise BadInput(f"columns run from {columns.min()} to {columns.max()}, but there are {n_columns}")
        indptr = np.asarray(indptr, dtype=np.int64)
        starts, rows, values = kernel.transpose(indptr, columns, values, n_columns)
        return cls(starts, rows, values, len(indptr) - 1, dims=dims, weigh=weigh)

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        return f"Postings({self.n_rows} rows, {len(self.indptr) - 1} columns, {len(self.rows)} postings)"

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, impacts included where they are kept beside the values."""
        arrays = {id(a): a for a in (self.indptr, self.rows, self.values, self._impacts, self.dims) if a is not None}
        return sum(array.nbytes for array in arrays.values()) + 9 * len(self._ready)

    def postings(self, column: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows int32, raw values) of one column."""
        if not 0 <= column < len(self.indptr) - 1:
            raise BadInput(f"column {column} is not one of the {len(self.indptr) - 1}")
        span = slice(self.indptr[column], self.indptr[column + 1])
        return self.rows[span], self.values[span]

    def top(
        self, columns: np.ndarray, weights: np.ndarray, k: int, allow: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of one query.

        Args:
            columns: integers [m], the query's columns (dimensions, if the postings have `dims`); unknown ones match
                nothing, repeated ones count again.
            weights: float32 [m].
            k: how many rows.
            allow: bool [n_rows], the rows that may be found; None for all.

        Returns:
            (scores float32 [<= k] descending, rows int64 [<= k]), only rows to which some column contributes.
        """
        found = self.top_many(np.array([0, len(columns)]), columns, weights, k, allow)
        n = int(np.count_nonzero(found.ids[0] >= 0))
        return found.scores[0, :n], found.ids[0, :n]

    def top_many(
        self,
        offsets: np.ndarray,
        columns: np.ndarray,
        weights: np.ndarray,
        k: int,
        allow: np.ndarray | None = None,
        *,
        parallel: bool = False,
    ) -> Neighbours:
        """The k best rows of many queries, of which query q is `offsets[q]:offsets[q + 1]` of columns and weights."""
        if k < 1:
            raise BadInput(f"k must be at least 1, got {k}")
        if len(columns) != len(weights) or offsets[-1] != len(columns):
            raise BadInput(f"each column needs a weight, got {len(columns)} columns and {len(weights)} weights")
        if allow is not None:
            allow = np.asarray(allow)
            if allow.dtype != np.bool_ or allow.shape != (self.n_rows,):
                raise BadInput(f"allow must be bool [{self.n_rows}], got {allow.dtype} {list(allow.shape)}")
        columns, weights = np.asarray(columns), np.asarray(weights, dtype=np.float32)
        if not np.isfinite(weights).all():
            raise BadInput("query weights must be finite, got NaN or infinity")
        columns = self._local(columns)
        within = max(1, min(k, self.n_rows))
        found = self._top(offsets, columns, weights, within, allow, parallel)
        if found is None:
            self._prepare(columns[weights != 0])
            found = self._top(offsets, columns, weights, within, allow, parallel)
        assert found is not None
        scores, ids = found
        if within < k:
            short = len(scores), k - within
            scores = np.concatenate([scores, np.full(short, -np.inf, dtype=np.float32)], axis=1)
            ids = np.concatenate([ids, np.full(short, -1, dtype=np.int64)], axis=1)
        return Neighbours(scores, ids)

    def _top(
        self, offsets: np.ndarray, columns: np.ndarray, weights: np.ndarray, k: int, allow: np.ndarray | None,
        parallel: bool,
    ) -> tuple[np.ndarray, np.ndarray] | None:  # fmt: skip
        return kernel.top_rows(
            self.indptr, self.rows, self._impacts, self._highest, self._lowest, self._ready, self.n_rows,
            offsets, columns, weights, k, allow, parallel=parallel,
        )  # fmt: skip

    def _local(self, columns: np.ndarray) -> np.ndarray:
        """Column numbers int64; what has no column here gets a number that is none."""
        columns = columns.astype(np.int64, copy=False)
        if self.dims is None or self._own_numbers:
            return columns
        if not len(self.dims):
            return np.full(len(columns), -1, dtype=np.int64)
        local = np.minimum(np.searchsorted(self.dims, columns), len(self.dims) - 1)
        return np.where(self.dims[local] == columns, local, -1)

    def _prepare(self, columns: np.ndarray) -> None:
        """Make impacts and bounds of columns not touched before."""
        columns = columns[(columns >= 0) & (columns < len(self._ready))]
        columns = columns[~self._ready[columns]]
        if not len(columns):
            return
        columns = np.unique(columns)
        starts, stops = self.indptr[columns], self.indptr[columns + 1]
        lengths = stops - starts
        take: Any  # which postings
        if len(columns) == 1:
            take = slice(starts[0], stops[0])
        elif lengths.sum() == len(self.rows):
            take = slice(None)
        else:
            take = np.arange(lengths.sum()) + np.repeat(stops - np.cumsum(lengths), lengths)
        if self._impacts is self.values:
            impacts = self._impacts[take]
        else:
            values = self.values[take]
            impacts = values if self._weigh is None else self._weigh(self.rows[take], values)
            impacts = np.asarray(impacts, dtype=np.float32)
            self._impacts[take] = impacts
        if len(impacts):
            filled = lengths > 0
            begins = (np.cumsum(lengths) - lengths)[filled]
            self._highest[columns[filled]] = np.maximum.reduceat(impacts, begins)
            self._lowest[columns[filled]] = np.minimum.reduceat(impacts, begins)
        self._ready[columns] = True  # last, so that another thread never sees a column half made


class Inverted:
    """Exact index of sparse rows.

    Rows may be added at any time; they are merged into posting lists by the next search. Memory is 8 bytes a
    non-zero, 12 with `impact`.

    Args:
        impact: (rows int32 [n], values float32 [n]) to float32 [n], what a stored value contributes; None takes
            values as they are. It is asked once a column, when a query first touches it, and not saved.
    """

    def __init__(self, impact: Weigh | None = None) -> None:
        self.impact = impact
        self._postings = Postings(
            np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), 0,
            dims=np.empty(0, np.int64), weigh=impact,
        )  # fmt: skip
        self._pending: list[Sparse] = []

    def __len__(self) -> int:
        return self._postings.n_rows + sum(map(len, self._pending))

    def __repr__(self) -> str:
        return f"Inverted({len(self)} rows)"

    @property
    def nbytes(self) -> int:
        """Bytes of the posting lists."""
        return self.postings.nbytes

    @property
    def postings(self) -> Postings:
        """Posting lists of all rows added so far."""
        if self._pending:
            self._postings = _joined(self._postings, _columns_of(self._pending), self.impact)
            self._pending = []
            if self.impact is None:
                # Only bounds are missing, and those of all columns at once cost what a few first queries would.
                self._postings._prepare(np.arange(len(self._postings.indptr) - 1))
        return self._postings

    def add(self, vectors: Any) -> None:
        """Append rows: a `Sparse` or any scipy sparse array, of any width."""
        rows = Sparse.of(vectors)
        if not np.isfinite(rows.data).all():
            row = int(np.searchsorted(rows.indptr, np.flatnonzero(~np.isfinite(rows.data))[0], side="right")) - 1
            raise BadInput(f"row {row} holds NaN or infinity; sparse rows must be finite")
        if len(rows.indices) and rows.indices.min() < 0:
            raise BadInput(f"columns must not be negative, got {rows.indices.min()}")
        unordered = _unordered(rows.indptr, rows.indices)
        if unordered is not None:
            raise BadInput(f"columns of row {unordered} do not ascend; sort them and sum duplicates first")
        self._pending.append(rows)

    def search(self, queries: Any, k: int, *, allow: np.ndarray | None = None, parallel: bool = False) -> Neighbours:
        """The k rows of highest dot product with each query, among those that share a column with it."""
        queries = Sparse.of(queries)
        return self.postings.top_many(queries.indptr, queries.indices, queries.data, k, allow, parallel=parallel)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posting lists to one `.npz` file."""
        p, path = self.postings, Path(path)
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            arrays = {"indptr": p.indptr, "rows": p.rows, "values": p.values, "dims": np.asarray(p.dims)}
            np.savez(file, n_rows=np.int64(p.n_rows), **arrays)  # type: ignore[arg-type]
        partial.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], impact: Weigh | None = None) -> Inverted:
        """Read what `save` wrote; give the same `impact` again."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                indptr, rows, values, dims = (stored[name] for name in ("indptr", "rows", "values", "dims"))
                n_rows = int(stored["n_rows"])
            if (np.diff(indptr) < 0).any() or (len(rows) and not (rows.min() >= 0 and rows.max() < n_rows)):
                raise ValueError("postings out of range")
            if _unordered(indptr, rows) is not None:
                raise ValueError("postings out of order")
            index = cls(impact)
            index._postings = Postings(indptr, rows, values, n_rows, dims=dims, weigh=impact)
        except OSError:
            raise
        except Exception as error:  # what a flipped byte of a zip header can raise is a long list
            raise Corrupt(f"{path} does not hold an inverted index ({error}); build and save it again") from error
        return index


def _unordered(indptr: np.ndarray, indices: np.ndarray) -> int | None:
    """The first row (or column) whose indices do not ascend strictly."""
    ascends = np.diff(indices) > 0
    starts = indptr[1:-1]
    ascends[starts[(starts > 0) & (starts < len(indices))] - 1] = True  # between two rows nothing is asked
    if ascends.all():
        return None
    return int(np.searchsorted(indptr, np.flatnonzero(~ascends)[0], side="right")) - 1


def _columns_of(chunks: list[Sparse]) -> Postings:
    """Column store of rows in several chunks."""
    indices = np.concatenate([chunk.indices for chunk in chunks])
    values = np.concatenate([chunk.data for chunk in chunks])
    lengths = np.concatenate([np.diff(chunk.indptr) for chunk in chunks])
    dims, columns = np.unique(indices, return_inverse=True)
    indptr = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return Postings.from_rows(indptr, columns.astype(np.int32), values, len(dims), dims=dims)


def _joined(old: Postings, new: Postings, weigh: Weigh | None) -> Postings:
    """One column store of the rows of `old` followed by the rows of `new`."""
    if not old.n_rows:
        return Postings(new.indptr, new.rows, new.values, new.n_rows, dims=new.dims, weigh=weigh)
    assert old.dims is not None
    assert new.dims is not None
    dims = np.union1d(old.dims, new.dims)
    old_counts, new_counts = np.zeros(len(dims), dtype=np.int64), np.zeros(len(dims), dtype=np.int64)
    old_counts[np.searchsorted(dims, old.dims)] = np.diff(old.indptr)
    new_counts[np.searchsorted(dims, new.dims)] = np.diff(new.indptr)
    indptr = np.zeros(len(dims) + 1, dtype=np.int64)
    np.cumsum(old_counts + new_counts, out=indptr[1:])
    rows = np.empty(indptr[-1], dtype=np.int32)
    values = np.empty(indptr[-1], dtype=np.float32)
    # Each column is its old postings, then its new ones, whose rows are all higher.
    from_old = np.repeat(np.tile([True, False], len(dims)), np.stack([old_counts, new_counts], axis=1).ravel())
    rows[from_old], values[from_old] = old.rows, old.values
    rows[~from_old], values[~from_old] = new.rows + old.n_rows, new.values
    return Postings(indptr, rows, values, old.n_rows + new.n_rows, dims=dims, weigh=weigh)
