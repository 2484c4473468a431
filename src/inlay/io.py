"""Files that are whole or absent, and whose every byte is checked before it is believed.

Arrays are kept in the safetensors format (an open one: any reader of it can look inside), written by streaming and
read by memory map. A file is covered by CRC-32 sums of fixed blocks, so that a reader verifies only the blocks it
touches: a flipped byte is an error that names the file, never a wrong answer.
"""

from __future__ import annotations

import json
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import BadInput, Corrupt

__all__ = ["BLOCK", "Pack", "atomic_write", "pack_bytes", "sync_folder", "write_pack"]

BLOCK = 1 << 18  # bytes per checksum: small enough to verify a posting list cheaply, large enough to keep sums few

_NAMES = {
    "float32": "F32", "float16": "F16", "float64": "F64", "int8": "I8", "uint8": "U8", "int16": "I16",
    "uint16": "U16", "int32": "I32", "uint32": "U32", "int64": "I64", "uint64": "U64", "bool": "BOOL",
}  # fmt: skip
_DTYPES = {short: np.dtype(name) for name, short in _NAMES.items()}


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable (a rename is not, until its folder is synced)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def atomic_write(path: Path, data: bytes) -> None:
    """Replace a file by new content: a reader, or a crash, sees the old file or the new one, never a mixture."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def _layout(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None) -> list[np.ndarray | bytes]:
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    parts: list[np.ndarray | bytes] = [b""]
    offset = 0
    for name, array in arrays.items():
        if array.dtype.name not in _NAMES:
            raise BadInput(f"array {name!r} has dtype {array.dtype}, which safetensors cannot hold")
        shape = list(array.shape)  # before it is made contiguous, which gives a scalar an axis
        array = np.ascontiguousarray(array)
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        parts.append(array)
        offset += array.nbytes
        # Later arrays start on a cache line; the gap belongs to a named array so that the file stays valid.
        gap = -offset % 64
        if gap:
            header[f"pad{len(parts)}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [offset, offset + gap]}
            parts.append(bytes(gap))
            offset += gap
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    parts[0] = len(text).to_bytes(8, "little") + text
    return parts


def _views(parts: Iterable[np.ndarray | bytes]) -> Iterable[memoryview]:
    for part in parts:
        if len(part):
            yield memoryview(part).cast("B") if isinstance(part, bytes) else part.reshape(-1).view(np.uint8).data


def pack_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Arrays as the bytes of a safetensors file."""
    return b"".join(_views(_layout(arrays, metadata)))


def write_pack(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> list[int]:
    """Write arrays to a new safetensors file, synced to disk.

    Returns:
        The CRC-32 of each block of `BLOCK` bytes.
    """
    sums: list[int] = []
    crc, filled = 0, 0
    with open(path, "xb") as file:
        for view in _views(_layout(arrays, metadata)):
            file.write(view)
            start = 0
            while start < len(view):
                take = min(BLOCK - filled, len(view) - start)
                crc = zlib.crc32(view[start : start + take], crc)
                filled += take
                start += take
                if filled == BLOCK:
                    sums.append(crc)
                    crc, filled = 0, 0
        if filled:
            sums.append(crc)
        file.flush()
        os.fsync(file.fileno())
    return sums


class Pack:
    """Named arrays of one safetensors file or byte string, verified block by block as they are touched.

    Args:
        buffer: the bytes.
        name: what to call it in errors.
        sums: CRC-32 per block, or None where something else vouches for the bytes.
        repair: the command to put into errors.
    """

    def __init__(self, buffer: Any, name: str, sums: list[int] | None = None, repair: str = "inlay doctor") -> None:
        self._bytes = np.frombuffer(buffer, dtype=np.uint8)
        self._name, self._sums, self._repair = name, sums, repair
        self._verified = np.zeros(0 if sums is None else len(sums), dtype=bool)
        if sums is not None and len(sums) != -(-len(self._bytes) // BLOCK):
            raise self._corrupt(f"it has {len(self._bytes)} bytes, its checksums cover another length")
        self._check(0, 8)
        size = int.from_bytes(self._bytes[:8].tobytes(), "little")
        if not 2 <= size <= len(self._bytes) - 8:
            raise self._corrupt("its header does not parse")
        self._check(8, 8 + size)
        self._data = 8 + size
        try:
            header = json.loads(self._bytes[8 : self._data].tobytes())
        except ValueError:
            raise self._corrupt("its header does not parse") from None
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        self._header = header

    @classmethod
    def open(cls, path: Path, sums: list[int], repair: str) -> Pack:
        """Map a file into memory. Raises FileNotFoundError where there is none."""
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise Corrupt(f"{path} is empty. Run: {repair}")
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), str(path), sums, repair)

    def _corrupt(self, why: str) -> Corrupt:
        return Corrupt(f"{self._name} is damaged: {why}. Run: {self._repair}")

    def _check(self, start: int, stop: int) -> None:
        if self._sums is None:
            return
        first, last = start // BLOCK, -(-stop // BLOCK)
        if self._verified[first:last].all():
            return
        for block in range(first, min(last, len(self._sums))):
            if not self._verified[block]:
                if zlib.crc32(self._bytes[block * BLOCK : (block + 1) * BLOCK].data) != self._sums[block]:
                    raise self._corrupt(f"block {block} does not match its checksum")
                self._verified[block] = True

    def __contains__(self, name: str) -> bool:
        return name in self._header

    def names(self) -> list[str]:
        """Names of the arrays."""
        return [name for name in self._header if not name.startswith("pad")]

    def __getitem__(self, name: str) -> np.ndarray:
        """A whole array, verified."""
        start, stop = self._header[name]["data_offsets"]
        self._check(self._data + start, self._data + stop)
        return self.unverified(name)

    def unverified(self, name: str) -> np.ndarray:
        """An array whose parts the caller verifies with `touch` before reading them."""
        entry = self._header[name]
        start, stop = entry["data_offsets"]
        raw = self._bytes[self._data + start : self._data + stop]
        return raw.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def rows(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Some rows [len(ids), …] of an array, verified, as a copy; what else there is is not read."""
        array, start = self.unverified(name), self._data + self._header[name]["data_offsets"][0]
        size = array.itemsize * int(np.prod(array.shape[1:]))
        low = start + np.asarray(ids, dtype=np.int64) * size
        if self._sums is not None:
            blocks = np.concatenate([low // BLOCK, (low + max(size - 1, 0)) // BLOCK])
            for block in np.unique(blocks[~self._verified[blocks]]).tolist():
                self._check(block * BLOCK, (block + 1) * BLOCK)
        return array[ids]

    def touch(self, name: str, start: int, stop: int) -> None:
        """Verify elements [start, stop) of a one-dimensional array."""
        entry = self._header[name]
        base, size = self._data + entry["data_offsets"][0], _DTYPES[entry["dtype"]].itemsize
        if stop > start:
            self._check(base + start * size, base + stop * size)

    def verify(self, progress: Callable[[int], None] | None = None) -> None:
        """Verify every byte."""
        for start in range(0, len(self._bytes), BLOCK):
            self._check(start, min(start + BLOCK, len(self._bytes)))
            if progress:
                progress(min(BLOCK, len(self._bytes) - start))

    @property
    def nbytes(self) -> int:
        """Size of the file."""
        return len(self._bytes)
