"""Rows in an LMDB file: a B+-tree on disk, keyed by the n-gram itself.

A key is the n-gram's tokens, four bytes each, big-endian; a value is its row and a CRC-32 of both. The longest n-gram
that ends at a place is found by at most K − 1 look-ups, the longest first, each n-gram of a batch once: no list of
n-grams is kept in memory, but for what the operating system keeps of the file.

LMDB itself verifies nothing, and a file that is cut short ends the process that reads it. So a second file holds its
length and the CRC-32 of its blocks, and is looked at before LMDB is.

Needs the package `lmdb` (extra `lmdb`).

Source: the storage of Scaling Embedding Layers in Language Models (arXiv 2502.01637).
"""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt, MissingExtra
from inlay.io import BLOCK
from inlay.lm.frequent_ngrams import FGrams
from inlay.tables.row_store import from_bfloat16, to_bfloat16

__all__ = ["LmdbRows"]

KIND = "LMDB rows"
_STORED: dict[str, Any] = {"float32": "<f4", "bfloat16": "<u2"}
_REPAIR = "compile it again"
_open: weakref.WeakValueDictionary[Path, _Tree] = weakref.WeakValueDictionary()  # a file is opened once in a process


class LmdbRows:
    """A folder with an LMDB file, open for reading.

    Args:
        path: of the folder.
        verify: read all of the file once, about a second a gigabyte. False trusts the pages of the tree; rows are
            verified all the same when they are read.

    Raises:
        BadInput: there is no such folder.
        Corrupt: the file is damaged or cut short.
        MissingExtra: `lmdb` is not installed.
    """

    def __init__(self, path: str | Path, *, verify: bool = True) -> None:
        self.path = Path(path)
        arrays, facts = sealed.read(self.path / "sums", KIND)
        try:
            self._sums, self._size = arrays["sums"], facts["bytes"]
            self.nrows, self.dim, self.max_n, self.dtype = (facts[name] for name in ("rows", "dim", "max_n", "dtype"))
        except KeyError as error:
            raise Corrupt(f"{path} was written by another version of inlay (no {error}): {_REPAIR}") from None
        self._check(every=verify)
        where = self._data.resolve()
        self._tree = _open.get(where) or _Tree(self.path)
        _open[where] = self._tree

    @staticmethod
    def write(
        path: str | Path, fgrams: FGrams, rows: Callable[[np.ndarray], np.ndarray], dim: int, *,
        dtype: str = "bfloat16", batch: int = 4096,
    ) -> None:  # fmt: skip
        """Write a new folder; whoever wants it whole or not at all writes beside its place and renames it.

        Args:
            path: of the folder, which must not exist.
            fgrams: the n-grams.
            rows: gives float32 rows [n, dim] of n-grams int64 [n], by number.
            dim: width of a row.
            dtype: `float32` or `bfloat16`.
            batch: n-grams asked for at a time.
        """
        lmdb = _lmdb()
        if dtype not in _STORED:
            raise BadInput(f"dtype must be one of {', '.join(_STORED)} in an LMDB file, got {dtype!r}")
        if fgrams.max_n * 4 > 511:
            raise BadInput(f"LMDB keys hold n-grams of at most 127 tokens, there is room for {fgrams.max_n}")
        path = Path(path)
        try:
            path.mkdir()
        except FileExistsError:
            raise BadInput(f"{path} exists already; remove it first, or write to another place") from None
        keys = [key.tobytes() for key in _cut(fgrams.tokens, fgrams.lengths)]
        order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
        size = dim * np.dtype(_STORED[dtype]).itemsize + 4 * fgrams.max_n
        # Address space, not bytes on disk: the file grows as pages are filled.
        env = lmdb.open(str(path), map_size=(len(keys) + 1024) * (2 * size + 2 * 4096), max_dbs=1)
        with env:
            tree = env.open_db(b"rows")
            for start in range(0, len(order), batch):
                some = order[start : start + batch]
                stored = np.asarray(rows(some), dtype=np.float32)
                if stored.shape != (len(some), dim) or not np.isfinite(stored).all():
                    raise BadInput(f"rows must be finite [{len(some)}, {dim}], got {stored.shape}")
                if dtype == "bfloat16":
                    stored = to_bfloat16(stored)
                stored = stored.astype(_STORED[dtype])
                with env.begin(write=True, db=tree) as write:
                    items = [(keys[n], _sealed(keys[n], row.tobytes())) for n, row in zip(some.tolist(), stored)]
                    write.cursor().putmulti(items, append=True)
            env.sync(True)
        (path / "lock.mdb").unlink(missing_ok=True)  # readers take no lock: nobody writes again
        facts = {"kind": KIND, "rows": len(keys), "dim": dim, "max_n": fgrams.max_n, "dtype": dtype}
        sums = np.array(list(_sums(path / "data.mdb")), dtype=np.uint32)
        sealed.write(path / "sums", {"sums": sums}, {**facts, "bytes": (path / "data.mdb").stat().st_size})

    def __len__(self) -> int:
        return self.nrows

    def __repr__(self) -> str:
        return f"LmdbRows({str(self.path)!r}, {self.nrows:,} rows, dim={self.dim}, dtype={self.dtype!r})"

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return int(self._size)

    def longest(self, ids: np.ndarray, *, separator: int | None = None, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the longest n-grams that end at the last tokens of each text, each once.

        Args:
            ids: int [batch, time], in [0, 2**31).
            separator: the token that documents begin with: no n-gram reaches over it.
            last: look at that many tokens at the end; those before are read as what comes before them.

        Returns:
            Float32 rows [u, dim], and int64 [batch, last] in [0, u), -1 where no n-gram ends.
        """
        windows = _windows(ids, self.max_n, separator)[:, ids.shape[1] - last :]
        shape, k = windows.shape[:2], self.max_n
        unique, inverse = np.unique(windows.reshape(-1, k), axis=0, return_inverse=True)
        place, rows = np.full(len(unique), -1, dtype=np.int64), list[np.ndarray]()
        of: dict[bytes, int] = {}
        with self._tree.env.begin(db=self._tree.rows) as read:
            for n in range(k, 1, -1):
                open_ = np.flatnonzero((place < 0) & (unique[:, k - n] >= 0))
                keys = [key.tobytes() for key in _cut(unique[open_, k - n :], None)]
                for key, value in read.cursor().getmulti(sorted(set(keys))):
                    of[key] = len(rows)
                    rows.append(self._row(key, value))
                place[open_] = [of.get(key, -1) for key in keys]
        found = np.stack(rows) if rows else np.zeros((0, self.dim), dtype=np.float32)
        return found, place[inverse.reshape(-1)].reshape(shape)

    def verify(self) -> None:
        """Verify every byte of the file. Raises `Corrupt`."""
        self._check(every=True)

    @property
    def _data(self) -> Path:
        return self.path / "data.mdb"

    def _check(self, *, every: bool) -> None:
        """Its length and first block, which holds the root of the tree; or all of it."""
        size = self._data.stat().st_size if self._data.is_file() else 0
        if size != self._size:
            raise Corrupt(f"{self._data} has {size} bytes of {self._size}: {_REPAIR}")
        for block, crc in enumerate(_sums(self._data)):
            if crc != self._sums[block]:
                raise Corrupt(f"{self._data} is damaged: block {block} does not match its checksum; {_REPAIR}")
            if not every:
                return

    def _row(self, key: bytes, value: bytes) -> np.ndarray:
        kind = np.dtype(_STORED[self.dtype])
        if len(value) != self.dim * kind.itemsize + 4 or _sealed(key, value[:-4]) != value:
            gram = np.frombuffer(key, dtype=">u4").tolist()
            raise Corrupt(f"{self.path} is damaged: the row of n-gram {gram} does not match its checksum; {_REPAIR}")
        row = np.frombuffer(value, dtype=kind, count=self.dim)
        return from_bfloat16(row) if self.dtype == "bfloat16" else row.astype(np.float32)


class _Tree:
    """An open LMDB environment; LMDB refuses to open a file twice in a process."""

    def __init__(self, path: Path) -> None:
        lmdb = _lmdb()
        try:
            self.env = lmdb.open(str(path), readonly=True, lock=False, max_dbs=1, readahead=False)
            self.rows = self.env.open_db(b"rows", create=False)
        except lmdb.Error as error:
            raise Corrupt(f"{path} cannot be opened as LMDB ({error}): {_REPAIR}") from None


def _lmdb() -> Any:
    try:
        import lmdb
    except ModuleNotFoundError:
        raise MissingExtra("rows in an LMDB file", "lmdb") from None
    return lmdb


def _sums(path: Path) -> Iterator[int]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            yield zlib.crc32(block)


def _sealed(key: bytes, row: bytes) -> bytes:
    return row + zlib.crc32(row, zlib.crc32(key)).to_bytes(4, "little")


def _cut(tokens: np.ndarray, lengths: np.ndarray | None) -> list[np.ndarray]:
    """Each n-gram's key as an array: big-endian, so that keys sort as n-grams do."""
    high = tokens.astype(">u4")
    return list(high) if lengths is None else [row[:length] for row, length in zip(high, lengths.tolist())]


def _windows(ids: np.ndarray, k: int, separator: int | None) -> np.ndarray:
    """Int64 [batch, time, k], the tokens up to each, -1 before its document."""
    padded = np.pad(ids.astype(np.int64), ((0, 0), (k - 1, 0)), constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, k, axis=1).copy()
    if separator is not None:  # the last separator in the window is where the document begins
        begins = windows[..., ::-1] == separator
        since = np.where(begins.any(axis=-1), begins.argmax(axis=-1), k)
        windows[np.arange(k - 1, -1, -1) > since[..., None]] = -1
    return windows
