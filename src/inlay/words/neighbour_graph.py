"""Approximate nearness in a file of keyed vectors, by a graph that lies beside it.

The graph's name carries the digest of the file's checksums, so a graph is never taken for that of other rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.errors import BadInput

if TYPE_CHECKING:
    from inlay.indexes.hnsw import HNSW
    from inlay.words.store_file import StoreFile

__all__ = ["NeighbourGraph"]

MOST = 1024  # neighbours fetched at effort 1
ROWS_AT_ONCE = 1 << 14


class NeighbourGraph:
    """A graph over the unit rows of a file.

    Args:
        path: where it is kept.
        index: the graph.
    """

    def __init__(self, path: Path, index: HNSW) -> None:
        self.path, self.index = path, index

    @staticmethod
    def place(file: StoreFile) -> Path:
        """Where the graph of a file is kept."""
        return file.path.with_name(f"{file.path.name}.{file.digest:08x}.hnsw")

    @classmethod
    def build(cls, file: StoreFile, **options: Any) -> NeighbourGraph:
        """Add every row to a new graph and save it."""
        from inlay.indexes.hnsw import HNSW

        index = HNSW(file.dim, metric="dot", **({"dtype": "float16"} | options))
        for start in range(0, len(file), ROWS_AT_ONCE):
            index.add(file.unit_rows(np.arange(start, min(start + ROWS_AT_ONCE, len(file)))))
        made = cls(cls.place(file), index)
        index.save(made.path)
        return made

    @classmethod
    def load(cls, file: StoreFile) -> NeighbourGraph:
        """Read the graph of a file. Raises `BadInput` where none was built."""
        from inlay.indexes.hnsw import HNSW

        path = cls.place(file)
        if not path.exists():
            raise BadInput(
                f"{file.path} has no graph {path.name} beside it; make it with build_graph(), or leave effort"
            )
        return cls(path, HNSW.load(path))

    def near(self, query: np.ndarray, wanted: int, effort: float) -> np.ndarray:
        """About the nearest rows of a unit query [1, dim], at least `wanted` where there are as many."""
        if not 0 <= effort <= 1:
            raise BadInput(f"effort is between 0 and 1, got {effort!r}")
        depth = min(len(self.index), wanted + round(effort * MOST))
        return self.index.search(query, depth).ids[0]
