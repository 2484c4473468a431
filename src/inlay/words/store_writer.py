"""Writing a file of keyed vectors: rows go to disk as they come, the rest when the last of them is there.

The file appears under its name when it is whole and synced; a failure, of the source as much as of the disk, leaves
nothing behind.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np

from inlay.codecs import Int8
from inlay.errors import BadInput
from inlay.io import sync_folder
from inlay.kernels.dense import normalise
from inlay.kernels.halves import split
from inlay.kernels.mixing import keys_of
from inlay.words.key_index import most_alike, sorted_hashes
from inlay.words.out_of_vocabulary import Rules
from inlay.words.store_file import FORMAT, PAGE, ROOM
from inlay.words.subword import postings

__all__ = ["Dtype", "StoreWriter"]

Dtype: TypeAlias = Literal["float32", "float16", "int8"]
NAMES = {
    "float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
    "int64": "I64",
}  # fmt: skip
PLANES = ("sketch_high", "sketch_low")
COPIED_AT_ONCE = 1 << 22


class StoreWriter:
    """Keys and rows, batch after batch, into one file. A context manager; leaving it by an error writes nothing.

    Args:
        path: the file; one that is there is replaced at the end.
        dtype: how rows are kept: `float32`; `float16`, half the bytes; `int8`, a quarter, each number off by at most
            1/254 of the largest in its row.
        sketch: keep an int8 copy of float rows beside them, a quarter (or half) of their bytes, of which an exact
            search reads little more than half: the high halves of its numbers, and the low halves of few rows. Default:
            for float32.
        subword: shortest and longest character n-gram of the posting lists that answer for misspelt keys, or None for
            a smaller file whose unknown keys get vectors that are only hashes.
        rules: how vectors of unknown keys are made; frozen in the file (default: `Rules()`).
        metadata: whatever should travel in the header; must be JSON.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: Dtype = "float32",
        sketch: bool | None = None,
        subword: tuple[int, int] | None = (3, 6),
        rules: Rules | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if dtype not in ("float32", "float16", "int8"):
            raise BadInput(f"dtype is float32, float16 or int8, got {dtype!r}")
        if subword is not None and not (len(subword) == 2 and 1 <= subword[0] <= subword[1] <= 16):
            raise BadInput(f"subword is the shortest and longest n-gram, such as (3, 6), or None; got {subword!r}")
        self.path, self.dtype, self.subword = Path(path), dtype, subword
        self.sketch = dtype == "float32" if sketch is None else bool(sketch) and dtype != "int8"
        self.rules = (rules or Rules()).over(subword)
        self.metadata = dict(metadata or {})
        self.dim = 0
        self._keys: list[str] = []
        self._norms: list[np.ndarray] = []
        self._scales: list[np.ndarray] = []
        self._rests: list[np.ndarray] = []
        self._worst = 0.0
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")

    def __enter__(self) -> StoreWriter:
        if not self.path.parent.is_dir():
            raise BadInput(f"the folder {self.path.parent} does not exist; make it first")
        self._out = _Summed(open(self._partial, "wb"))
        # The sketch has to follow all rows, so its planes wait in nameless files on the same disk.
        self._spools: list[IO[bytes]] = [_nameless(self.path.parent) for _ in PLANES]
        return self

    def add(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Append keys and their rows [n, dim], of any length; they are normalised here.

        A key may come twice: both rows are kept, and the first is what the key gives.
        """
        rows = np.asarray(rows, dtype=np.float32)
        if rows.ndim != 2 or len(rows) != len(keys) or not rows.shape[1]:
            raise BadInput(f"{len(keys)} keys with vectors of shape {list(rows.shape)}; expected [{len(keys)}, dim]")
        if self.dim and rows.shape[1] != self.dim:
            raise BadInput(f"key {keys[0]!r} has {rows.shape[1]} dimensions, the keys before it {self.dim}")
        for i, key in enumerate(keys):
            if not isinstance(key, str):
                raise BadInput(f"keys are strings, got {key!r} (number {len(self._keys) + i})")
        if not np.isfinite(rows).all():
            row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            raise BadInput(f"the vector of {keys[row]!r} (number {len(self._keys) + row}) holds NaN or infinity")
        self.dim = rows.shape[1]
        unit = normalise(rows)
        with np.errstate(over="ignore"):
            norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        if self.dtype == "int8":
            codes, _ = Int8().encode(unit)
            # The step is chosen so that a decoded row has length 1 again, and its products stay cosines.
            lengths = np.sqrt(np.einsum("nd,nd->n", codes, codes, dtype=np.float64))
            self._scales.append(np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 0).astype(np.float32))
            self._out.write(codes)
        else:
            kept = unit.astype(self.dtype)
            if self.sketch:
                self._sketch(kept.astype(np.float32))
            self._out.write(kept)
        self._norms.append(norms.astype(np.float32))
        self._keys.extend(keys)

    def _sketch(self, rows: np.ndarray) -> None:
        """Int8 codes of rows, and how far they are from the rows at worst, in steps: no score can be off by more."""
        codes, scales = Int8().encode(rows)
        error = rows - codes * scales[:, None]
        lengths = np.sqrt(np.einsum("nd,nd->n", error, error, dtype=np.float64))
        self._worst = max(self._worst, float(np.divide(lengths, scales, where=scales > 0, out=lengths).max(initial=0)))
        self._scales.append(scales)
        *planes, rests = split(codes, sketch_width(self.dim))
        self._rests.append(rests)
        for plane, spool in zip(planes, self._spools):
            spool.write(plane.data)

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        try:
            if error is None:
                self._finish()
                os.replace(self._partial, self.path)
                sync_folder(self.path.parent)
        finally:
            self._out.file.close()
            for spool in self._spools:
                spool.close()
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        if not self._keys:
            raise BadInput(f"no keys were given, so there is nothing to write into {self.path}")
        n = len(self._keys)
        rows = (n, self.dim)
        header = {"rows": self._entry(self.dtype, rows, 0, n * self.dim * np.dtype(self.dtype).itemsize)}
        self._pad(header)
        for name, spool in zip(PLANES if self.sketch else (), self._spools):
            start = self._out.written
            spool.seek(0)
            while part := spool.read(COPIED_AT_ONCE):
                self._out.write(np.frombuffer(part, dtype=np.uint8))
            header[name] = self._entry("uint8", (n, sketch_width(self.dim) // 2), start, self._out.written)
            self._pad(header)
        blocks = self._index_blocks()
        for name, array in blocks.items():
            start = self._out.written
            self._out.write(array)
            header[name] = self._entry(array.dtype.name, array.shape, start, self._out.written)
            self._pad(header)
        about = {
            "format": FORMAT,
            "max_duplicates": most_alike(blocks["key_hashes"]),
            "max_folded_duplicates": most_alike(blocks.get("folded_hashes", blocks["key_hashes"])),
            "sketch_steps_off": self._worst,
            "subword": self.subword,
            "rules": self.rules.as_dict(),
            "metadata": self.metadata,
        }
        self._write_ends(header, about)

    def _index_blocks(self) -> dict[str, np.ndarray]:
        blocks = {"norms": np.concatenate(self._norms)}
        if self._scales:
            blocks["sketch_scales" if self.sketch else "scales"] = np.concatenate(self._scales)
        if self._rests:
            blocks["sketch_rests"] = np.concatenate(self._rests)
        encoded = [key.encode("utf-8", "surrogatepass") for key in self._keys]
        blocks["key_offsets"] = np.concatenate([[0], np.cumsum([len(key) for key in encoded])]).astype(np.int64)
        blocks["key_bytes"] = np.frombuffer(b"".join(encoded) or b"\0", dtype=np.uint8)
        blocks |= sorted_hashes(keys_of(self._keys), "key")
        folded = [key.lower() for key in self._keys]
        if folded != self._keys:
            blocks |= sorted_hashes(keys_of(folded), "folded")
        if self.subword:
            blocks |= postings(self._keys, *self.subword)
        return blocks

    def _write_ends(self, header: dict[str, Any], about: Mapping[str, Any]) -> None:
        """The checksums, and the header over the room kept for it."""
        try:
            metadata = {"inlay": json.dumps(about, ensure_ascii=True)}
        except TypeError as error:
            raise BadInput(f"metadata must be JSON: {error}") from None
        data = self._out.written
        pages = -(-(ROOM + data) // PAGE)
        header["sums"] = self._entry("uint32", (pages + 1,), data, data + 4 * (pages + 1))
        text = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":")).encode()
        if len(text) > ROOM - 8:
            raise BadInput(f"metadata is too large: a header of {len(text)} bytes, {ROOM - 8} are kept; say less")
        top = (ROOM - 8).to_bytes(8, "little") + text.ljust(ROOM - 8)
        first = [zlib.crc32(top[start : start + PAGE]) for start in range(0, ROOM, PAGE)]
        sums = np.array(first + self._out.sums(), dtype="<u4").tobytes()
        file = self._out.file
        file.write(sums + zlib.crc32(sums).to_bytes(4, "little"))
        file.seek(0)
        file.write(top)
        file.flush()
        os.fsync(file.fileno())

    def _entry(self, dtype: str, shape: Sequence[int], start: int, stop: int) -> dict[str, Any]:
        return {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, stop]}

    def _pad(self, header: dict[str, Any]) -> None:
        """Fill up to a cache line; safetensors has no holes, so the gap is a tensor too."""
        start, gap = self._out.written, -self._out.written % 64
        if gap:
            self._out.write(np.zeros(gap, dtype=np.uint8))
            header[f"pad{len(header)}"] = self._entry("uint8", (gap,), start, start + gap)


def _nameless(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)


def sketch_width(dim: int) -> int:
    """Columns of a sketch: zeros fill up a row where a scan then runs faster than it has bytes more to read.

    Kernels take 64 columns at a time, of which a byte of a plane holds two, and a remainder of 32.
    """
    whole = -(-dim // 64) * 64
    return whole if 10 * whole <= 11 * dim else -(-dim // 32) * 32


class _Summed:
    """A file behind the room for its header, with the checksum of every page written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.written = file, 0
        self._sums: list[int] = []
        self._rest = b""
        file.write(bytes(ROOM))

    def write(self, array: np.ndarray) -> None:
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self.file.write(raw)
        self.written += len(raw)
        start = 0
        if self._rest:
            start = min(PAGE - len(self._rest), len(raw))
            self._rest += raw[:start]
            if len(self._rest) < PAGE:
                return
            self._sums.append(zlib.crc32(self._rest))
        stop = start + (len(raw) - start) // PAGE * PAGE
        self._sums.extend([zlib.crc32(raw[at : at + PAGE]) for at in range(start, stop, PAGE)])
        self._rest = bytes(raw[stop:])

    def sums(self) -> list[int]:
        """Of all pages, the last of which may be short."""
        return self._sums + ([zlib.crc32(self._rest)] if self._rest else [])


def batches(keys: Iterable[str], rows: np.ndarray, count: int = 1 << 14) -> Iterable[tuple[list[str], np.ndarray]]:
    """Keys and rows that are in memory, a batch at a time."""
    keys = list(keys)
    if len(keys) != len(rows):
        raise BadInput(f"{len(keys)} keys with {len(rows)} vectors; there must be as many")
    for start in range(0, len(keys), count):
        yield keys[start : start + count], rows[start : start + count]
