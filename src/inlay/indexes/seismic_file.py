"""The file of a `Seismic` index: its arrays in one safetensors file, mapped into memory.

Beside them are `sums`, the CRC-32 of every block of 256 KiB of every array, and `digest`, of the facts and the sums.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import BadInput, Corrupt
from inlay.indexes.seismic_segment import Segment
from inlay.io import BLOCK, Pack, sync_folder, write_pack
from inlay.kernels.seismic import Arrays

__all__ = ["read", "write"]

_KIND = "Seismic index"
_REPAIR = "restore the file from a copy, or build the index and save it again"


def write(path: Path, segments: list[Segment], facts: Mapping[str, Any]) -> None:
    """Write segments and JSON-able facts, whole or not at all."""
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; make it first")
    arrays = {}
    for i, segment in enumerate(segments):
        for name, array in {**segment.arrays._asdict(), "dims": segment.dims}.items():
            arrays[f"{i}.{name}"] = np.ascontiguousarray(array)
    text = json.dumps({"kind": _KIND, "segments": len(segments), **facts})
    sums = _sums(arrays.values())
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        write_pack(partial, {**arrays, "sums": sums, "digest": _digest(text, arrays, sums)}, {"facts": text})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def read(path: Path, *, verify: bool) -> tuple[list[Segment], dict[str, Any]]:
    """Map a file; `verify` reads all of it once."""
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise Corrupt(f"{path} is empty: {_REPAIR}")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise BadInput(f"there is no {_KIND} {path}") from None
    except IsADirectoryError:
        raise BadInput(f"{path} is a folder, not a {_KIND}") from None
    try:
        pack = Pack(mapped, str(path), repair=_REPAIR)
        text = pack.metadata["facts"]
        arrays = {name: pack[name] for name in pack.names()}
        sums, kept = arrays.pop("sums"), arrays.pop("digest")
        facts = json.loads(text)
        if not np.array_equal(_digest(text, arrays, sums), kept):
            raise ValueError("its checksums do not match their digest")
        if facts["kind"] != _KIND:
            raise BadInput(f"{path} holds a {facts['kind']}, not a {_KIND}")
        if verify and not np.array_equal(_sums(arrays.values()), sums):
            raise ValueError("its content does not match its checksums")
        segments = [
            Segment(Arrays(*(arrays[f"{i}.{name}"] for name in Arrays._fields)), arrays[f"{i}.dims"])
            for i in range(facts["segments"])
        ]
    except (Corrupt, BadInput):
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{path} is damaged, cut short or no {_KIND} ({error}): {_REPAIR}") from None
    return segments, facts


def _sums(arrays: Iterable[np.ndarray]) -> np.ndarray:
    sums = []
    for array in arrays:
        raw = array.reshape(-1).view(np.uint8)
        sums += [zlib.crc32(raw[start : start + BLOCK].data) for start in range(0, raw.size, BLOCK)]
    return np.array(sums, dtype=np.uint32)


def _digest(facts: str, arrays: Mapping[str, np.ndarray], sums: np.ndarray) -> np.ndarray:
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for name, array in arrays.items():
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
    digest.update(sums.astype("<u4").tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)
