"""The writing side of a slot file: documents laid out, block by block, with the sums that later reads believe."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import BadInput, InlayWarning, SpaceMismatch
from inlay.indexes.slot_layout import SLOT, Layout, lay_out, row_starts, windows
from inlay.io import sync_folder
from inlay.types import Ragged

__all__ = ["REPAIR", "digest", "write"]

REPAIR = "restore the file from a copy, or write it again from the rows"
BLOCKS_AT_ONCE = 1 << 12  # 16 MiB: rows may be memory-mapped and larger than memory


def write(path: Path, cls_rows: Any, bow: Ragged) -> None:
    """Write rows [n, cls_dim] (or None) and the token rows of n documents; see `SlotFile.create`."""
    cls, values, offsets = _checked(cls_rows, bow)
    if not path.parent.is_dir():
        raise BadInput(f"the folder {path.parent} does not exist; make it first")
    tokens = np.diff(offsets)
    layout = lay_out(tokens, 2 * cls.shape[1], 2 * values.shape[1])
    cut = np.flatnonzero(layout.tokens < tokens)
    n = len(tokens)
    behind = 4 * layout.blocks + 8 * n + 16
    facts = json.dumps({"cls": cls.shape[1], "bow": values.shape[1], "truncated": len(cut), "behind": behind})
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(_header(layout.blocks, n, facts))
            sums = np.empty(layout.blocks, dtype=np.uint32)
            order = np.argsort(layout.block, kind="stable")
            order = order[(2 * cls.shape[1] + layout.tokens[order].astype(np.int64) * 2 * values.shape[1]) > 0]
            for start in range(0, layout.blocks, BLOCKS_AT_ONCE):
                stop = min(start + BLOCKS_AT_ONCE, layout.blocks)
                # The second block of a document may fall into the next batch: there, it is laid out once more.
                low, high = np.searchsorted(layout.block[order], [max(0, start - 1), stop])
                blocks = _blocks(order[low:high], layout, start, stop, cls, values, offsets)
                sums[start:stop] = [zlib.crc32(block.data) for block in blocks]
                file.write(blocks.data)
            directory = {"sums": sums, "block": layout.block, "offset": layout.offset, "tokens": layout.tokens}
            for array in directory.values():
                file.write(array.tobytes())
            file.write(digest(facts, directory))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
    if len(cut):
        warnings.warn(
            f"{len(cut)} of {n} documents have more tokens than a slot holds and were cut, the first of them document "
            f"{cut[0]}: {layout.tokens[cut[0]]} of its {tokens[cut[0]]} are kept",
            InlayWarning,
            stacklevel=3,
        )


def digest(facts: str, arrays: Mapping[str, np.ndarray]) -> bytes:
    """16 bytes that vouch for facts and directory."""
    state = hashlib.blake2b(facts.encode(), digest_size=16)
    for name in ("sums", "block", "offset", "tokens"):
        state.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        state.update(arrays[name].tobytes())
    return state.digest()


def _header(blocks: int, n: int, facts: str) -> bytes:
    """The head of a safetensors file, whose data begin with a block of the disk."""
    header: dict[str, Any] = {"__metadata__": {"slots": facts}}
    offset = 0
    for name, dtype, shape, size in (
        ("blocks", "U8", [blocks, SLOT], blocks * SLOT), ("sums", "U32", [blocks], 4 * blocks),
        ("block", "U32", [n], 4 * n), ("offset", "U16", [n], 2 * n), ("tokens", "U16", [n], 2 * n),
        ("digest", "U8", [16], 16),
    ):  # fmt: skip
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % SLOT)
    return len(text).to_bytes(8, "little") + text


def _blocks(
    documents: np.ndarray, layout: Layout, start: int, stop: int, cls: np.ndarray, values: np.ndarray,
    offsets: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Blocks [start, stop), uint8 [blocks, SLOT], from the documents that begin in them or in the one before."""
    numbers = np.zeros((stop - start + 2) * SLOT // 2, dtype=np.float16)  # one block more on either side
    first = ((layout.block[documents].astype(np.int64) - start + 1) * SLOT + layout.offset[documents]) // 2
    counts = layout.tokens[documents].astype(np.int64)
    tokens = row_starts(offsets[documents], counts, 1)
    with np.errstate(over="ignore"):
        heads, rows = cls[documents].astype(np.float16), values[tokens].astype(np.float16)
    _finite(heads, documents)
    _finite(rows, np.repeat(documents, counts))
    windows(numbers, cls.shape[1])[first] = heads
    windows(numbers, values.shape[1])[row_starts(first + cls.shape[1], counts, values.shape[1])] = rows
    return numbers.view(np.uint8).reshape(-1, SLOT)[1:-1]


def _finite(rows: np.ndarray, documents: np.ndarray) -> None:
    wrong = ~np.isfinite(rows).all(axis=1)
    if wrong.any():
        raise BadInput(
            f"document {documents[wrong][0]} holds NaN or a number beyond float16, which ends at 65504; scale the rows"
        )


def _checked(cls_rows: Any, bow: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not isinstance(bow, Ragged):
        raise BadInput(f"token rows come as inlay.types.Ragged, got {type(bow).__name__}")
    values, offsets = np.asanyarray(bow.values), np.asarray(bow.offsets)
    if values.ndim != 2 or values.dtype.kind != "f" or not values.shape[1]:
        raise BadInput(f"token rows must be floats [tokens, dim], got {values.dtype} {list(values.shape)}")
    if offsets.ndim != 1 or not len(offsets) or offsets.dtype.kind not in "iu":
        raise BadInput(f"offsets must be integers [n + 1], got {offsets.dtype} {list(offsets.shape)}")
    offsets = offsets.astype(np.int64)
    if offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise BadInput(f"offsets must rise from 0 to the {len(values)} rows, got {offsets[0]} to {offsets[-1]}")
    n = len(offsets) - 1
    cls = np.empty((n, 0), dtype=np.float16) if cls_rows is None else np.asanyarray(cls_rows)
    if cls.ndim != 2 or cls.dtype.kind != "f":
        raise BadInput(f"CLS rows must be floats [n, dim], got {cls.dtype} {list(cls.shape)}")
    if len(cls) != n:
        raise SpaceMismatch(
            f"there are {len(cls)} CLS rows and token rows of {n} documents; give one of each a document"
        )
    return cls, values, offsets
