"""One file of keyed vectors: written as a stream, opened in milliseconds, read a few bytes at a time, never believed
before it is checked.

The file is a safetensors file (any reader of that format can look inside) whose tensors are blocks:

    rows [n, dim]                 unit rows, float32, float16 or int8
    scales [n]                    int8 only: what one step is worth, chosen so that the decoded row has length 1
    norms [n]                     lengths before normalisation: raw = unit · norm
    sketch_high, sketch_low [n, ≥ dim / 2]  optional int8 copy of float rows, which a search scans first: the high half
                                  of every number, and the low half (see `kernels.halves`)
    sketch_scales, sketch_rests [n]       what one step of it is worth, and how much the low halves of a row come to
    key_offsets [n + 1], key_bytes        the keys in file order, UTF-8
    hash_starts, hashes, hash_rows        key → rows (see `key_index`); folded_… the same for lower-cased keys
    gram_…                        optional: character n-gram → rows (see `subword`)
    sums                          CRC-32 of every 4 KiB page before it, and of themselves

Opening reads the header and `sums`. A page is verified when it is first touched, so a flipped byte is a `Corrupt`
error that names the file, and never a wrong vector. Single rows are read by `pread`, which maps nothing: memory stays
at what was asked for. Only a search, which needs all rows, maps them: shared, read-only, safe for threads and forks.

Files of format 1 hold that copy undivided (`sketch` [n, ≥ dim], int8) and are searched by it as they are.

Source of the idea: "Magnitude: A Fast, Efficient Universal Vector Embedding Utility Package" (arXiv 1810.11190).
Theirs is an SQLite table with a column a dimension; the behaviours are kept, that layout is not.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from inlay.errors import BadInput, Corrupt

Block: TypeAlias = tuple[np.dtype[Any], tuple[int, ...], tuple[int, int]]  # type, shape, bytes from and to

__all__ = ["FORMAT", "PAGE", "ROOM", "StoreFile"]

FORMAT = "inlay keyed vectors 2"
READABLE = ("inlay keyed vectors 1", FORMAT)
PAGE = 4096  # bytes a checksum covers: what a single row costs to verify
ROOM = 4 * PAGE  # bytes kept for the header, so that it can be written last
READ_ONE_BY_ONE = 64  # rows up to which single reads are cheaper than mapping
REPAIR = "make it again from its source: inlay words convert"
DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"), "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"), "U64": np.dtype("<u8"), "I64": np.dtype("<i8"),
}  # fmt: skip


class StoreFile:
    """An open file of keyed vectors.

    Args:
        path: the file. It may be replaced while it is open: what was opened stays.

    Raises:
        FileNotFoundError: there is none.
        Corrupt: it is no such file, is cut short, or its header does not match its checksum.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - closed by `close`
        self._map: mmap.mmap | None = None
        self._whole: dict[str, np.ndarray] = {}
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        nbytes = os.fstat(self._file.fileno()).st_size
        start = self._file.read(8)
        size = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= size <= min(nbytes - 8, 100 << 20):
            raise self._corrupt("it is no file of keyed vectors, or its first bytes are damaged")
        self._data = 8 + size
        try:
            header: dict[str, Any] = json.loads(self._file.read(size))
            about = json.loads(header.pop("__metadata__")["inlay"])
            blocks: dict[str, Block] = {
                name: (DTYPES[entry["dtype"]], tuple(entry["shape"]), tuple(entry["data_offsets"]))
                for name, entry in header.items()
            }
        except (ValueError, KeyError, TypeError):
            raise self._corrupt("its header does not parse") from None
        if about.get("format") not in READABLE:
            raise self._corrupt(f"its format is {about.get('format')!r}, expected {FORMAT!r}")
        for name, (dtype, shape, (low, high)) in blocks.items():
            if high - low != dtype.itemsize * math.prod(shape):
                raise self._corrupt(f"its header contradicts itself about {name!r}")
        end = self._data + max((high for *_, (_, high) in blocks.values()), default=0)
        if nbytes != end:
            raise self._corrupt(f"it has {nbytes:,} bytes and should have {end:,}: it was cut short, or grew")
        self.about, self._blocks = about, blocks
        self._read_sums()
        self._bytes(0, self._data)

    def _read_sums(self) -> None:
        if "sums" not in self._blocks:
            raise self._corrupt("it has no checksums")
        *_, (low, high) = self._blocks["sums"]
        self._covered = self._data + low
        raw = os.pread(self._file.fileno(), high - low, self._covered)
        sums = np.frombuffer(raw, dtype="<u4")
        if len(sums) != -(-self._covered // PAGE) + 1 or zlib.crc32(raw[:-4]) != int(sums[-1]):
            raise self._corrupt("its checksums do not verify")
        self._sums = sums[:-1]
        self.digest = int(sums[-1])
        self._verified = bytearray(len(self._sums))

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(f"{self.path} cannot be used: {why}. Restore it from a copy, or {REPAIR}")

    def __contains__(self, name: str) -> bool:
        return name in self._blocks

    def __len__(self) -> int:
        return int(self._blocks["rows"][1][0])

    @property
    def dim(self) -> int:
        """Width of a row."""
        return int(self._blocks["rows"][1][1])

    @property
    def dtype(self) -> str:
        """How rows are kept: float32, float16 or int8."""
        return self._blocks["rows"][0].name

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return self._covered + 4 * (len(self._sums) + 1)

    def sizes(self) -> dict[str, int]:
        """Bytes of each block."""
        return {name: high - low for name, (*_, (low, high)) in self._blocks.items() if not name.startswith("pad")}

    def length(self, name: str) -> int:
        """Items along the first axis of a block."""
        return int(self._blocks[name][1][0])

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Items [start, stop) of a block, verified, as an array of their own."""
        dtype, shape, (low, _) = self._blocks[name]
        stride = dtype.itemsize * math.prod(shape[1:])
        raw = self._bytes(self._data + low + start * stride, self._data + low + stop * stride)
        return np.frombuffer(raw, dtype=dtype).reshape(stop - start, *shape[1:])

    def _bytes(self, start: int, stop: int) -> bytes:
        """Bytes of the file; pages that were never looked at are read whole and verified first."""
        if self._file.closed:
            raise BadInput(f"{self.path} was closed; open it again")
        low, high = start // PAGE, -(-stop // PAGE)
        if self._verified.find(0, low, high) < 0:
            return os.pread(self._file.fileno(), stop - start, start)
        upto = min(high * PAGE, self._covered)
        raw = os.pread(self._file.fileno(), upto - low * PAGE, low * PAGE)
        if len(raw) != upto - low * PAGE:
            raise self._corrupt("it became shorter while it was open")
        self._verify(low, high, memoryview(raw))
        return raw[start - low * PAGE : stop - low * PAGE]

    def _verify(self, low: int, high: int, raw: memoryview) -> None:
        """Check pages [low, high), of which `raw` are the bytes."""
        verified, sums, crc32 = self._verified, self._sums[low:high].tolist(), zlib.crc32
        for i, page in enumerate(range(low, high)):
            if not verified[page]:
                if crc32(raw[i * PAGE : (i + 1) * PAGE]) != sums[i]:
                    raise self._corrupt(f"page {page} does not match its checksum")
                verified[page] = 1

    def _mapped(self) -> mmap.mmap:
        if self._map is None:
            if self._file.closed:
                raise BadInput(f"{self.path} was closed; open it again")
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def whole(self, name: str) -> np.ndarray:
        """All of a block, verified, as a read-only view of the mapped file."""
        if name not in self._whole:
            dtype, shape, (start, stop) = self._blocks[name]
            low, high = (self._data + start) // PAGE, -(-(self._data + stop) // PAGE)
            if self._verified.find(0, low, high) >= 0:
                upto = min(high * PAGE, self._covered)
                with memoryview(self._mapped()) as raw:
                    self._verify(low, high, raw[low * PAGE : upto])
            array = np.frombuffer(self._mapped(), dtype=dtype, count=math.prod(shape), offset=self._data + start)
            self._whole[name] = array.reshape(shape)
        return self._whole[name]

    def gather(self, name: str, at: np.ndarray) -> np.ndarray:
        """Items `at` (int [m]) of a block, verified, as an array of their own."""
        dtype, shape, (low, _) = self._blocks[name]
        if len(at) <= READ_ONE_BY_ONE and self._map is None:
            out = np.empty((len(at), *shape[1:]), dtype=dtype)
            for i, item in enumerate(at.tolist()):
                out[i] = self.read(name, item, item + 1)[0]
            return out
        if name not in self._whole:  # then only the pages of these items are verified
            stride = dtype.itemsize * math.prod(shape[1:])
            first = self._data + low + at.astype(np.int64) * stride
            spanned = first[:, None] // PAGE + np.arange((stride - 1) // PAGE + 2)
            self._verify_pages(np.minimum(spanned, (first[:, None] + stride - 1) // PAGE).reshape(-1))
            array = np.frombuffer(self._mapped(), dtype=dtype, count=math.prod(shape), offset=self._data + low)
            return np.take(array.reshape(shape), at, axis=0)
        return np.take(self._whole[name], at, axis=0)

    def _verify_pages(self, pages: np.ndarray) -> None:
        fresh = pages[np.frombuffer(self._verified, dtype=np.uint8)[pages] == 0]
        if not len(fresh):
            return
        with memoryview(self._mapped()) as raw:
            for page in np.unique(fresh).tolist():
                self._verify(page, page + 1, raw[page * PAGE : min((page + 1) * PAGE, self._covered)])

    def verify(self) -> None:
        """Check every byte."""
        step = 1024
        for low in range(0, len(self._sums), step):
            self._bytes(low * PAGE, min((low + step) * PAGE, self._covered))

    def unit_rows(self, at: Iterable[int] | np.ndarray) -> np.ndarray:
        """Rows of length 1 (to the precision they are kept in; a row of zeros stays so), float32 [m, dim]."""
        at = np.asarray(at, dtype=np.int64)
        rows = self.gather("rows", at).astype(np.float32, copy=False)
        if "scales" in self:
            rows *= self.gather("scales", at)[:, None]
        return rows

    def norms(self, at: Iterable[int] | np.ndarray) -> np.ndarray:
        """Lengths before normalisation, float32 [m]."""
        return self.gather("norms", np.asarray(at, dtype=np.int64))

    def key(self, row: int) -> str:
        """The key of one row."""
        low, high = self.read("key_offsets", row, row + 2).tolist()
        return self.read("key_bytes", low, high).tobytes().decode("utf-8", "surrogatepass")

    def unit_row(self, row: int) -> np.ndarray:
        """One row of `unit_rows`, float32 [dim]."""
        found = self.read("rows", row, row + 1)[0].astype(np.float32)
        if "scales" in self._blocks:
            found *= self.read("scales", row, row + 1)
        return found

    def keys(self, at: Iterable[int] | np.ndarray) -> list[str]:
        """The keys of rows."""
        at = np.asarray(at, dtype=np.int64)
        lows, highs = self.gather("key_offsets", np.concatenate([at, at + 1])).reshape(2, -1).tolist()
        if len(at) > READ_ONE_BY_ONE:
            raw = self.whole("key_bytes").data
            return [str(raw[low:high], "utf-8", "surrogatepass") for low, high in zip(lows, highs)]
        return [self.read("key_bytes", a, b).tobytes().decode("utf-8", "surrogatepass") for a, b in zip(lows, highs)]

    def key_span(self, start: int, stop: int) -> list[str]:
        """The keys of rows [start, stop)."""
        offsets = self.read("key_offsets", start, stop + 1).tolist()
        raw = self.read("key_bytes", offsets[0], offsets[-1]).tobytes()
        cuts = [offset - offsets[0] for offset in offsets]
        return [raw[a:b].decode("utf-8", "surrogatepass") for a, b in zip(cuts, cuts[1:])]

    def close(self) -> None:
        """Let go of the file. Arrays that view it stay usable, for the mapping lives as long as they do."""
        self._whole.clear()
        self._map = None
        self._file.close()
