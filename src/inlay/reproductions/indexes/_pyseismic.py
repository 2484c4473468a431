"""The authors' own Seismic, in Rust (package pyseismic-lsr), as a peer."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Peer"]


class Peer:
    """An index built by pyseismic-lsr of rows in its inner format, which takes numbers for words.

    Args:
        path: a file that `write` made.
        settings: by its names, which are those of `inlay.indexes.Seismic`.

    Raises:
        ImportError: it is not installed.
    """

    def __init__(self, path: Path, **settings: Any) -> None:
        import seismic

        self.index = seismic.SeismicIndexRaw.build(str(path), **settings)

    @staticmethod
    def write(rows: Any, path: Path) -> None:
        """Write sparse rows for it."""
        with open(path, "wb") as file:
            file.write(struct.pack("<I", len(rows)))
            for begin, end in zip(rows.indptr[:-1].tolist(), rows.indptr[1:].tolist()):
                file.write(struct.pack("<I", end - begin))
                file.write(rows.indices[begin:end].astype("<i4").tobytes())
                file.write(rows.data[begin:end].astype("<f4").tobytes())

    def search(
        self, queries: list[tuple[np.ndarray, np.ndarray]], k: int, query_cut: int, heap_factor: float
    ) -> np.ndarray:
        """Ids int64 [queries, k] of (columns int32, weights float32), -1 for none; it takes one query a call."""
        found = [self.index.search(*query, k, query_cut, heap_factor, 0, True) for query in queries]
        return np.array([[id for _, id in one] + [-1] * (k - len(one)) for one in found])

    def nbytes(self, folder: Path) -> int:
        """Bytes of its file."""
        self.index.save(str(folder / "peer"))
        return sum(file.stat().st_size for file in folder.glob("peer*"))
