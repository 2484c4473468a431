"""Exact nearness by scanning every allowed row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from inlay.codecs.scalar import Float16, Float32, Int8
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.kernels.dense import nearest, normalise
from inlay.types import Metric, Neighbours

__all__ = ["Flat", "checked_mask", "checked_rows"]

Dtype: TypeAlias = Literal["float32", "float16", "int8"]
CODECS: dict[str, Float32 | Float16 | Int8] = {"float32": Float32(), "float16": Float16(), "int8": Int8()}
ROWS_AT_ONCE = 1 << 14  # rows encoded at a time, so that adding needs little memory beyond the rows it keeps


class Flat:
    """Rows in one array, scanned whole: exact up to the precision in which rows are stored.

    Args:
        dim: width of a row.
        metric: `cosine` (rows are kept at length 1; a zero row scores 0 with everything), `dot`, or `l2`, whose score
            is the negated square of the distance.
        dtype: how rows are kept: `float32`, `float16` (half the bytes and of the time), or `int8` (a quarter; one
            scale a row, see `inlay.codecs.Int8`). Queries stay float32.
    """

    def __init__(self, dim: int, *, metric: Metric = "cosine", dtype: Dtype = "float32") -> None:
        if not isinstance(dim, int | np.integer) or dim < 1:
            raise BadInput(f"dim must be a positive integer, got {dim!r}")
        if metric not in get_args(Metric):
            raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        if dtype not in CODECS:
            raise BadInput(f"dtype must be one of {', '.join(CODECS)}, got {dtype!r}")
        self.dim, self.metric, self.dtype = int(dim), metric, dtype
        self.codec = CODECS[dtype]
        self._count = 0
        self._rows = np.empty((0, self.dim), dtype=dtype)
        self._scales = np.empty(0, dtype=np.float32) if dtype == "int8" else None

    @classmethod
    def over(cls, rows: np.ndarray, scales: np.ndarray | None = None, *, metric: Metric = "cosine") -> Flat:
        """An index over rows that exist already, memory-mapped ones too; nothing is copied until rows are added.

        Args:
            rows: float32, float16 or int8 [n, dim], at length 1 already if `metric` is `cosine`.
            scales: float32 [n], what one step of each int8 row is worth.
            metric: as in the constructor.
        """
        if rows.ndim != 2 or rows.dtype.name not in CODECS:
            raise BadInput(f"expected float32, float16 or int8 rows [n, dim], got {rows.dtype} {list(rows.shape)}")
        if (rows.dtype == np.int8) != (scales is not None) or (scales is not None and len(scales) != len(rows)):
            given = "no scales" if scales is None else f"{len(scales)} scales"
            raise BadInput(f"{len(rows)} rows of {rows.dtype} with {given}; int8 rows, and only they, need one each")
        index = cls(rows.shape[1], metric=metric, dtype=rows.dtype.name)  # type: ignore[arg-type]
        index._rows, index._scales, index._count = rows, scales, len(rows)
        return index

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Flat({self.dim}, metric={self.metric!r}, dtype={self.dtype!r}) of {self._count} rows"

    @property
    def rows(self) -> np.ndarray:
        """Rows as they are kept, [n, dim] of `dtype`."""
        return self._rows[: self._count]

    @property
    def scales(self) -> np.ndarray | None:
        """What one step of each int8 row is worth, float32 [n]; None for other dtypes."""
        return None if self._scales is None else self._scales[: self._count]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self._count * self.codec.nbytes(self.dim)

    def add(self, vectors: np.ndarray) -> None:
        """Append rows [n, dim]; ids are positions in order of addition."""
        vectors = checked_rows(vectors, self.dim)
        start, stop = self._count, self._count + len(vectors)
        rows, scales = self._with_room(stop)
        # Kept only at the end: a row that a codec refuses leaves the index as it was.
        for i in range(0, len(vectors), ROWS_AT_ONCE):
            part = vectors[i : i + ROWS_AT_ONCE]
            codes: Any = self.codec.encode(normalise(part) if self.metric == "cosine" else part)
            where = slice(start + i, start + i + len(part))
            if scales is None:
                rows[where] = codes
            else:
                rows[where], scales[where] = codes
        self._rows, self._scales, self._count = rows, scales, stop

    def search(self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None) -> Neighbours:
        """The k nearest rows of each query; equal scores go to the lower id.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are allowed, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned. The others are not read.
        """
        queries = checked_rows(queries, self.dim, what="query")
        if self.metric == "cosine":
            queries = normalise(queries)
        allow = checked_mask(allow, self._count)
        return nearest(queries, self.rows, checked_k(k), scales=self.scales, metric=self.metric, allow=allow)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one `.npz` file."""
        path = Path(path)
        arrays = {"rows": self.rows, "metric": np.array(self.metric)}
        if self.scales is not None:
            arrays["scales"] = self.scales
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        partial.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Flat:
        """Read what `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                scales = stored["scales"] if "scales" in stored else None
                return cls.over(stored["rows"], scales, metric=str(stored["metric"]))  # type: ignore[arg-type]
        except OSError:
            raise
        except Exception as error:  # what a flipped byte of a zip header can raise is a long list
            raise Corrupt(f"{path} does not hold a flat index ({error}); build and save it again") from error

    def _with_room(self, needed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The arrays, or longer copies: growing by half keeps the cost of copying a constant per row."""
        if needed <= len(self._rows):
            return self._rows, self._scales
        room = max(needed, len(self._rows) * 3 // 2)
        rows = np.empty((room, self.dim), dtype=self.dtype)
        rows[: self._count] = self.rows
        if self._scales is None:
            return rows, None
        scales = np.empty(room, dtype=np.float32)
        scales[: self._count] = self.scales
        return rows, scales


def checked_shape(rows: Any, dim: int, what: str = "row") -> np.ndarray:
    """Float32 [n, dim], or an error that says what came instead. One row may come as [dim]."""
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32:
        try:
            with np.errstate(over="ignore"):
                rows = np.asarray(rows, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise BadInput(f"expected numbers [n, {dim}], got {type(rows).__name__}: {error}") from None
    if rows.ndim == 1:
        rows = rows[None] if len(rows) else rows.reshape(0, dim)
    if rows.ndim != 2:
        raise BadInput(f"expected [n, {dim}], got an array of shape {list(rows.shape)}")
    if rows.shape[1] != dim:
        raise SpaceMismatch(f"the index has {dim} dimensions, the {what} has {rows.shape[1]}")
    return rows


def checked_rows(rows: Any, dim: int, what: str = "row") -> np.ndarray:
    """Float32 [n, dim] of finite numbers, or an error that names the first offender. One row may come as [dim]."""
    rows = checked_shape(rows, dim, what)
    # The sum of a row is finite if every number is; only where it is not are the numbers looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(rows.sum(axis=1)))
    for i in suspects:
        if not np.isfinite(rows[i]).all():
            raise BadInput(f"{what} {i} holds NaN, or a number beyond float32")
    return rows


def checked_mask(allow: Any, count: int) -> np.ndarray | None:
    """`allow` as bool [count], or None."""
    if allow is None:
        return None
    allow = np.asarray(allow)
    if allow.dtype != np.bool_ or allow.shape != (count,):
        raise BadInput(f"allow must be bool [{count}], one a row, got {allow.dtype} {list(allow.shape)}")
    return allow


def checked_k(k: Any) -> int:
    """A positive number of neighbours."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 1:
        raise BadInput(f"k must be a positive integer, got {k!r}")
    return int(k)
