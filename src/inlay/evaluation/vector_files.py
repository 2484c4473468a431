"""`fvecs` and `ivecs`: vectors one after another, each as its length (int32) and its numbers (float32 or int32)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from inlay.errors import BadInput, Corrupt

__all__ = ["read_fvecs", "read_ivecs", "write_fvecs", "write_ivecs"]


def write_fvecs(path: str | Path, rows: np.ndarray) -> None:
    """Write float32 rows [n, dim]."""
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    if rows.ndim != 2:
        raise BadInput(f"fvecs hold rows [n, dim], got an array of shape {list(rows.shape)}")
    lengths = np.full((len(rows), 1), rows.shape[1], dtype="<i4")
    Path(path).write_bytes(np.hstack([lengths, rows.view("<i4")]).tobytes())


def read_fvecs(path: str | Path) -> np.ndarray:
    """Float32 [n, dim]."""
    words = _words(path)
    width = int(words[0]) + 1 if len(words) else 1
    if width < 1 or len(words) % width or (words[::width] != width - 1).any():
        raise Corrupt(f"{path} holds no rows of one width; download or write it again")
    return np.ascontiguousarray(words.reshape(-1, width)[:, 1:]).view(np.float32)


def write_ivecs(path: str | Path, rows: Iterable[np.ndarray]) -> None:
    """Write int32 rows, of any lengths."""
    parts = [np.concatenate([[len(row)], row]).astype("<i4") for row in rows]
    Path(path).write_bytes(np.concatenate(parts).tobytes() if parts else b"")


def read_ivecs(path: str | Path) -> list[np.ndarray]:
    """Int32 rows."""
    words, at = _words(path), 0
    rows: list[np.ndarray] = []
    while at < len(words):
        length = int(words[at])
        if length < 0 or at + 1 + length > len(words):
            raise Corrupt(f"{path} ends in the middle of row {len(rows)}; download or write it again")
        rows.append(words[at + 1 : at + 1 + length].copy())
        at += 1 + length
    return rows


def _words(path: str | Path) -> np.ndarray:
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"there is no file {path}; name one of the form fvecs or ivecs")
    data = path.read_bytes()
    if len(data) % 4:
        raise Corrupt(f"{path} has {len(data)} bytes, which is no whole number of words; download or write it again")
    return np.frombuffer(data, dtype="<i4")
