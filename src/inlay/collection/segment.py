"""Segments: immutable rows of one space, in a file of their own or, while small, in the catalog.

A segment is one safetensors file. Its rows are ordered by chunk number. Dense segments hold `rows` (and `scales`
for int8), sparse ones a column store of postings: `indptr`, `rows`, `values` and either `terms` (sorted strings: the
lexical space) or `dims` (sorted dimension numbers: any other sparse space).

On disk it is `segments/<name>/rows.safetensors` with `checksums.json`, whose digest the catalog keeps; it is written
under a hidden name, synced and renamed, so that a segment under its own name is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import Corrupt, InlayError
from inlay.io import BLOCK, Pack, atomic_write, pack_bytes, sync_folder, write_pack

__all__ = ["INLINE", "Segment", "Stored", "in_memory", "store", "sweep"]

INLINE = 96 * 1024  # bytes below which a segment lives in the catalog: no file, no extra sync for small additions

Arrays = Mapping[str, np.ndarray]


class Stored:
    """A segment that has been written and waits for its row in the catalog."""

    def __init__(self, name: str, rows: int, nbytes: int, digest: bytes | None, data: bytes | None) -> None:
        self.name, self.rows, self.nbytes, self.digest, self.data = name, rows, nbytes, digest, data

    def record(self, space: int) -> tuple[Any, ...]:
        """The row for `INSERT INTO segments`."""
        return (self.name, space, self.rows, self.nbytes, self.digest, self.data)


def store(folder: Path, arrays: Arrays) -> Stored:
    """Make a segment durable. It does not exist for anybody until its row is committed.

    Args:
        folder: the collection's `segments` folder.
        arrays: what the segment holds; `chunks` int64 [rows], ascending, is always among them.
    """
    name = secrets.token_hex(8)
    rows = len(arrays["chunks"])
    nbytes = sum(array.nbytes for array in arrays.values())
    if nbytes < INLINE:
        data = pack_bytes(arrays)
        return Stored(name, rows, len(data), hashlib.blake2b(data, digest_size=16).digest(), data)
    partial = folder / f".{name}.partial"
    try:
        partial.mkdir(parents=True)
        sums = write_pack(partial / "rows.safetensors", arrays)
        size = (partial / "rows.safetensors").stat().st_size
        checks = json.dumps({"rows.safetensors": {"bytes": size, "block": BLOCK, "crc32": sums}}).encode()
        atomic_write(partial / "checksums.json", checks)
        os.rename(partial, folder / name)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InlayError(f"cannot write a segment to {folder}: {error}; nothing of this batch was stored") from error
    return Stored(name, rows, size, hashlib.blake2b(checks, digest_size=16).digest(), None)


def sweep(folder: Path, known: set[str]) -> int:
    """Remove what no catalog row names: segments of unfinished writes and replaced ones. The writer's privilege."""
    removed = 0
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.name not in known:
            shutil.rmtree(entry, ignore_errors=True)
            removed += 1
    return removed


class Segment:
    """An opened segment.

    Args:
        folder: the collection's `segments` folder.
        name: the segment's name.
        digest: digest that the catalog keeps of it.
        data: its bytes, where it lives in the catalog.
    """

    def __init__(self, folder: Path, name: str, rows: int, digest: bytes, data: bytes | None) -> None:
        self.name, self.rows = name, rows
        repair = f"inlay doctor {folder.parent}"
        if data is not None:
            if hashlib.blake2b(data, digest_size=16).digest() != digest:
                raise Corrupt(f"segment {name} in {folder.parent} is damaged. Run: {repair}")
            self.pack = Pack(data, f"segment {name}", None, repair)
        else:
            checks = (folder / name / "checksums.json").read_bytes()
            if hashlib.blake2b(checks, digest_size=16).digest() != digest:
                raise Corrupt(f"{folder / name / 'checksums.json'} is damaged. Run: {repair}")
            entry = json.loads(checks)["rows.safetensors"]
            self.pack = Pack.open(folder / name / "rows.safetensors", entry["crc32"], repair)
        if len(self.chunks) != rows:
            raise Corrupt(f"segment {name} has {len(self.chunks)} rows, the catalog says {rows}. Run: {repair}")
        self._terms: Terms | None = None

    @property
    def chunks(self) -> np.ndarray:
        """int64 [rows], ascending: the chunk of each row."""
        return self.pack["chunks"]

    @property
    def terms(self) -> Terms:
        """The dictionary of a lexical segment."""
        if self._terms is None:
            self._terms = Terms(self.pack["terms"], self.pack["term_offsets"])
        return self._terms

    def rows_of(self, chunks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the segment holds the given chunks.

        Returns:
            (positions in `chunks`, rows), for those it holds.
        """
        if not self.rows:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        place = np.minimum(np.searchsorted(self.chunks, chunks), self.rows - 1)
        found = np.flatnonzero(self.chunks[place] == chunks)
        return found, place[found]


def in_memory(arrays: Arrays) -> Segment:
    """A segment of rows that could not be stored; nobody else sees it."""
    data = pack_bytes(arrays)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return Segment(Path(), "in memory", len(arrays["chunks"]), digest, data)


class Terms:
    """A sorted term dictionary: UTF-8 bytes end to end and their offsets, searched by bisection."""

    def __init__(self, blob: np.ndarray, offsets: np.ndarray) -> None:
        self._blob, self._offsets = blob, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, column: int) -> bytes:
        return self._blob[self._offsets[column] : self._offsets[column + 1]].tobytes()

    def find(self, term: str) -> int:
        """Column of a term, or -1."""
        key = term.encode()
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self[middle] < key:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self[low] == key else -1

    def all(self) -> list[bytes]:
        """Every term in order."""
        blob, offsets = self._blob.tobytes(), self._offsets.tolist()
        return [blob[a:b] for a, b in zip(offsets, offsets[1:])]

    @staticmethod
    def pack(terms: Sequence[bytes]) -> dict[str, np.ndarray]:
        """The arrays that hold sorted terms."""
        offsets = np.zeros(len(terms) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, terms), dtype=np.int64, count=len(terms)), out=offsets[1:])
        return {"terms": np.frombuffer(b"".join(terms), dtype=np.uint8), "term_offsets": offsets}
