"""The file under a `RowStore`: arrays mapped into memory, each block of 256 KiB verified when first touched.

A safetensors file: `rows-0`, `rows-1`, … (one array a shard), `scales` for int8, then `sums` (CRC-32 of every block of
those arrays), `digest` (of settings and sums) and `unfinished`, which begins with 1 from the first write in place until
the sums fit again. A file left unfinished is refused, because some of its rows may be old and some new.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import portalocker

from inlay.errors import BadInput, Corrupt, Locked
from inlay.io import BLOCK, Pack, sync_folder, write_pack

__all__ = ["RowFile", "write"]

_REPAIR = "restore it from a copy, or save the table again"


def write(path: Path, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> None:
    """Write arrays [rows, …] and JSON-able settings, whole or not at all."""
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; make it first")
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    facts = json.dumps(settings)
    sums = np.array([crc for array in arrays.values() for crc in _sums(array)], dtype=np.uint32)
    kept = {
        "sums": sums,
        "digest": _digest(facts, sums),
        "unfinished": np.zeros(64, dtype=np.uint8),
    }  # a whole line: the file ends with it
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        write_pack(partial, {**arrays, **kept}, {"rows": facts})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


class RowFile:
    """A mapped file.

    Args:
        path: of the file.
        writable: map it for writing too; one process at a time.
        recover: take a file that was left unfinished as it stands.
    """

    arrays: dict[str, np.ndarray]

    def __init__(self, path: Path, *, writable: bool = False, recover: bool = False) -> None:
        self.path, self.writable = path, writable
        try:
            self._handle = open(path, "r+b" if writable else "rb")  # noqa: SIM115 - kept open: it holds the lock
        except FileNotFoundError:
            raise BadInput(f"there is no table {path}; make it with RowStore.create or save") from None
        except IsADirectoryError:
            raise BadInput(f"{path} is a folder, not a table") from None
        if writable:
            try:
                portalocker.lock(self._handle, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
            except portalocker.exceptions.LockException:
                self._handle.close()
                raise Locked(
                    f"{path} is open for writing elsewhere, maybe in another process; close it there, or open it here "
                    "with writable=False"
                ) from None
        if not os.fstat(self._handle.fileno()).st_size:
            raise Corrupt(f"{path} is empty: {_REPAIR}")
        self._map = np.memmap(self._handle, dtype=np.uint8, mode="r+" if writable else "r")
        try:
            self._read()
        except Corrupt:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"{path} is damaged, cut short or no table ({error!r}): {_REPAIR}") from None
        if not self._unfinished[0] and not np.array_equal(_digest(self._facts, self._sums), self._kept):
            raise Corrupt(f"{path} is damaged: its checksums do not match their digest; {_REPAIR}")
        if self._unfinished[0] and not recover:
            raise Corrupt(
                f"{path} was being written when its process ended: some rows may be old, some new. Restore it from a "
                "copy, or open it with recover=True to take its rows as they stand"
            )
        self._verified = np.full(len(self._sums), bool(self._unfinished[0]))
        self._dirty = np.full(len(self._sums), bool(self._unfinished[0]))
        self._clean = bool(self._verified.all())
        if self._unfinished[0] and writable:
            self.flush()

    def _read(self) -> None:
        pack = Pack(self._map, str(self.path), repair=_REPAIR)
        self._facts = pack.metadata["rows"]
        self.settings: dict[str, Any] = json.loads(self._facts)
        every = {name: pack[name] for name in pack.names()}
        self._sums, self._kept, self._unfinished = (every.pop(name) for name in ("sums", "digest", "unfinished"))
        self.arrays, self._starts, blocks = every, {}, 0
        for name, array in every.items():
            self._starts[name] = blocks
            blocks += -(-array.nbytes // BLOCK)
        if len(self._sums) != blocks or self._kept.shape != (16,) or self._unfinished.shape != (64,):
            raise Corrupt(f"{self.path} is damaged: its checksums cover another length; {_REPAIR}")

    def touch(self, keys: np.ndarray) -> None:
        """Verify the blocks that rows `keys` int64 [n] lie in, unless they were before."""
        if self._clean or not len(keys):
            return
        for name in self.arrays:
            blocks = self._blocks(name, keys)
            blocks = np.unique(blocks[~self._verified[blocks]])
            self._check(name, blocks)
        self._clean = bool(self._verified.all())

    def verify(self) -> None:
        """Verify every byte of the rows."""
        for name, array in self.arrays.items():
            blocks = self._starts[name] + np.arange(-(-array.nbytes // BLOCK))
            self._check(name, blocks[~self._verified[blocks]])
        self._clean = True

    def begin(self, keys: np.ndarray) -> None:
        """Say, before the first write of rows `keys`, that the file is unfinished."""
        self.touch(keys)  # a damaged block must not get a sum that fits it
        if not self._unfinished[0]:
            self._unfinished[0] = 1
            self._map.flush()  # type: ignore[attr-defined]
        for name in self.arrays:
            self._dirty[self._blocks(name, keys)] = True

    def flush(self) -> None:
        """Make what was written durable, and its sums with it."""
        if not self.writable or not self._unfinished[0]:
            return
        self._map.flush()  # type: ignore[attr-defined]
        for name, array in self.arrays.items():
            start = self._starts[name]
            raw = array.reshape(-1).view(np.uint8)
            for block in np.flatnonzero(self._dirty[start : start + -(-raw.size // BLOCK)]).tolist():
                self._sums[start + block] = zlib.crc32(raw[block * BLOCK : (block + 1) * BLOCK].data)
        self._kept[:] = _digest(self._facts, self._sums)
        self._map.flush()  # type: ignore[attr-defined]
        self._unfinished[0] = 0
        self._map.flush()  # type: ignore[attr-defined]
        self._dirty[:] = False

    def close(self) -> None:
        """Flush, and let others write; the arrays stay readable."""
        self.flush()
        if self.writable:
            portalocker.unlock(self._handle)  # closing is not enough: the mapping holds the file open
        self.writable = False
        self._handle.close()

    def _blocks(self, name: str, keys: np.ndarray) -> np.ndarray:
        array = self.arrays[name]
        size = array.nbytes // len(array)
        first, last = keys * size // BLOCK, (keys * size + size - 1) // BLOCK
        span = int((last - first).max()) + 1
        return self._starts[name] + np.minimum(first[:, None] + np.arange(span), last[:, None]).reshape(-1)

    def _check(self, name: str, blocks: np.ndarray) -> None:
        raw = self.arrays[name].reshape(-1).view(np.uint8)
        for block in blocks.tolist():
            at = (block - self._starts[name]) * BLOCK
            if zlib.crc32(raw[at : at + BLOCK].data) != self._sums[block]:
                raise Corrupt(
                    f"{self.path} is damaged: block {at // BLOCK} of {name!r} does not match its checksum; {_REPAIR}"
                )
            self._verified[block] = True


def _sums(array: np.ndarray) -> list[int]:
    raw = array.reshape(-1).view(np.uint8)
    return [zlib.crc32(raw[start : start + BLOCK].data) for start in range(0, raw.size, BLOCK)]


def _digest(facts: str, sums: np.ndarray) -> np.ndarray:
    digest = hashlib.blake2b(facts.encode() + sums.astype("<u4").tobytes(), digest_size=16).digest()
    return np.frombuffer(digest, dtype=np.uint8)
