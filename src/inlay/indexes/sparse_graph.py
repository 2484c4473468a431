"""Approximate nearness of sparse rows, by a graph that is walked towards the query.

The graph is that of Malkov & Yashunin 2018, "Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs" (arXiv 1603.09320), by dot product over sparse rows, as kANNolo has it
(Delfino, Erriquez, Martinico, Nardini, Rulli & Venturini 2025, "kANNolo: Sweet and Smooth Approximate k-Nearest
Neighbors Search", arXiv 2501.06121), the peer of Seismic in Bruch, Nardini, Rulli, Venturini & Venuta 2025,
"Investigating the Scalability of Approximate Sparse Retrieval Algorithms to Massive Datasets" (ECIR).

Two things are added. Rows that are equal share one place in the graph, where they would else hide each other. And a
walk among rows that have nothing in common with the query stands on a plain of zeros: rows with words of their own
(another language) would never be found. So each column remembers the row with its largest weight, and a walk that has
found nothing by level 0 goes on from these.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.indexes.flat import checked_k, checked_mask
from inlay.indexes.graph_growth import levels_of, longer
from inlay.indexes.seismic import LARGEST, VALUES, _checked, _integer
from inlay.indexes.seismic_segment import _forward, _rounded
from inlay.kernels import sparse_graph as kernel
from inlay.kernels.seismic import LANES
from inlay.kernels.sparse_graph import NONE, Graph, Room
from inlay.types import Neighbours, Sparse

__all__ = ["SparseGraph"]

ROWS_AT_ONCE = 1024  # inserted between two chances to interrupt
NARROW = 1 << 16  # columns up to which 16 bits name one
KIND = "sparse graph"
NEEDS = "a SparseGraph walks towards higher scores from 0 up, which holds"


class SparseGraph:
    """Approximate index of sparse rows without negative weights, for their dot product with queries likewise.

    Rows are linked when they are added, so adding is slow and search need not wait; the graph is the same whether rows
    come at once or one by one. A search scores some hundreds of rows whatever their number. Searches may run side by
    side, but not beside an `add`.

    Args:
        connectivity: links of a row on each level above the lowest, M in the paper; on the lowest twice as many.
            kANNolo takes 32 for learned sparse rows; 16 is built in a third of the time.
        expansion_add: candidates from which a row's links are chosen (efConstruction).
        expansion_search: candidates kept during a search (ef): more is slower and finds more.
        keep_pruned: give links that are free to the nearest candidates that were passed over, as the paper proposes
            (keepPrunedConnections); hnswlib and faiss leave them free: faster to build, and a little less is found.
        values: `float16` or `float32`, how weights are kept.
        seed: of the draw of levels.
    """

    def __init__(
        self,
        *,
        connectivity: int = 32,
        expansion_add: int = 128,
        expansion_search: int = 128,
        keep_pruned: bool = True,
        values: str = "float16",
        seed: int = 0,
    ) -> None:
        if values not in VALUES:
            raise BadInput(f"values must be one of {', '.join(VALUES)}, got {values!r}")
        if not isinstance(keep_pruned, bool | np.bool_):
            raise BadInput(f"keep_pruned must be True or False, got {keep_pruned!r}")
        self.settings: dict[str, Any] = {
            "connectivity": _integer("connectivity", connectivity, 2),
            "expansion_add": _integer("expansion_add", expansion_add, 1),
            "expansion_search": _integer("expansion_search", expansion_search, 1),
            "keep_pruned": bool(keep_pruned),
            "values": values,
            "seed": _integer("seed", seed, 0),
        }
        m = self.settings["connectivity"]
        self._graph = Graph(
            starts=np.zeros(1, np.uint32), ids=np.empty((0, LANES), np.uint16),
            numbers=np.empty((0, LANES), values), levels=np.empty(0, np.uint8),
            links=np.empty((0, 2 * m), np.uint32), above=np.empty(0, np.uint32), higher=np.empty((0, m), np.uint32),
            twins=np.empty(0, np.uint32),
            entry=np.full(1, -1, np.int64), heads=np.empty(0, np.uint32), peaks=np.empty(0, np.float32),
        )  # fmt: skip
        self._dims = np.empty(0, dtype=np.int64)  # of each column, in the order in which they came
        self._order = np.empty(0, dtype=np.int64)  # which sorts them
        self._count = 0
        self._higher = 0  # rows of `higher` in use
        self._spare: list[Room] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"SparseGraph({said}) of {len(self)} rows"

    @property
    def nbytes(self) -> int:
        """Bytes of rows and links."""
        return sum(self.nbytes_of_parts.values())

    @property
    def nbytes_of_parts(self) -> dict[str, int]:
        """Bytes of `forward` (the rows) and `graph`, without the room that is kept for rows to come."""
        arrays = self._trimmed()
        forward = sum(arrays.pop(name).nbytes for name in ("starts", "ids", "numbers", "dims"))
        return {"forward": forward, "graph": sum(array.nbytes for array in arrays.values())}

    def add(self, vectors: Any) -> None:
        """Append rows: a `Sparse` or any scipy sparse array, of any width. A row without weights is never found.

        An interrupt leaves the rows that were linked until then.
        """
        rows = _checked(vectors, "row", LARGEST[self.settings["values"]], NEEDS)
        if self._count + len(rows) >= NONE:
            raise BadInput(f"an index holds {NONE - 1} rows, and {self._count} + {len(rows)} are more; use several")
        rows = _rounded(rows, self.settings["values"])
        with self._lock:
            self._spare = []
            stop = self._count + len(rows)
            self._append(rows)
            room = Room.of(self._graph)
            expansion, fill = self.settings["expansion_add"], self.settings["keep_pruned"]
            for first in range(self._count, stop, ROWS_AT_ONCE):
                last = min(first + ROWS_AT_ONCE, stop)
                kernel.insert(self._graph, first, last, expansion=expansion, fill=fill, room=room)
                self._count = last
                self._higher = int(self._graph.above[last - 1]) + int(self._graph.levels[last - 1])

    def search(self, queries: Any, k: int, *, allow: np.ndarray | None = None, ef: int | None = None) -> Neighbours:
        """About the k rows of highest dot product with each query that are met; equal scores go to the lower id.

        Args:
            queries: sparse rows without negative weights.
            k: how many; where fewer rows are met, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be found. Where they are too few for a walk to meet, all of them are
                scored, and the answer is exact.
            ef: candidates to keep in place of `expansion_search`; at least k are.
        """
        return self._found(queries, k, allow, ef)[0]

    def scored(self, queries: Any, k: int, *, allow: np.ndarray | None = None, ef: int | None = None) -> float:
        """How many rows `search` with the same arguments scores, a query on average."""
        found, scored = self._found(queries, k, allow, ef)
        return scored / max(1, len(found.ids))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file."""
        sealed.write(Path(path), self._trimmed(), {"kind": KIND, "settings": self.settings})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SparseGraph:
        """Read what `save` wrote; rows may be added to it."""
        arrays, facts = sealed.read(Path(path), KIND)
        try:
            index = cls(**facts["settings"])
            dims = arrays.pop("dims")
            graph = Graph(**{name: np.array(array) for name, array in arrays.items()})  # as its own: it is written to
            for name, fresh in index._graph._asdict().items():
                its = getattr(graph, name)
                if its.shape[1:] != fresh.shape[1:] or (its.dtype != fresh.dtype and name != "ids"):
                    raise ValueError(f"{name} is {its.dtype} {list(its.shape)}")
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold a sparse graph ({error}); build and save it again") from None
        index._graph, index._dims, index._order = graph, np.array(dims), np.argsort(dims, kind="stable")
        index._count, index._higher = len(graph.levels), len(graph.higher)
        return index

    def _found(self, queries: Any, k: int, allow: Any, ef: int | None) -> tuple[Neighbours, int]:
        queries, k = _checked(queries, "query", LARGEST["float32"], NEEDS), checked_k(k)
        ef = self.settings["expansion_search"] if ef is None else _integer("ef", ef, 1)
        allow = checked_mask(allow, self._count)
        within = max(1, min(k, self._count))
        best, sizes = np.zeros((len(queries), within), np.uint64), np.zeros(len(queries), np.int64)
        asked = queries.indptr, self._columns(queries.indices), queries.data
        expansion, room = max(1, min(max(ef, k), self._count)), self._room()
        rows = None if allow is None or allow.all() else np.flatnonzero(allow)
        if rows is not None and len(rows) ** 2 <= expansion * self.settings["connectivity"] * self._count:
            # A walk scores about ef · M rows, and its n-fold where one row in n may be found.
            kernel.scan(self._graph, *asked, rows, room=room, best=best, sizes=sizes)
            scored = len(rows) * len(queries)
        else:
            allowed = None if rows is None else allow
            scored = kernel.search(
                self._graph, *asked, expansion=expansion, allowed=allowed, room=room, best=best, sizes=sizes
            )
        self._spare.append(room)
        met = np.arange(within) < sizes[:, None]
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids = np.full((len(queries), k), -1, dtype=np.int64)
        scores[:, :within][met] = (best[met] >> np.uint64(32)).astype(np.uint32).view(np.float32)
        ids[:, :within][met] = NONE - (best[met] & np.uint64(NONE)).astype(np.int64)
        return Neighbours(scores, ids), int(scored)

    def _room(self) -> Room:
        """Some that no search is using."""
        try:
            return self._spare.pop()
        except IndexError:
            return Room.of(self._graph)

    def _columns(self, dims: np.ndarray) -> np.ndarray:
        """Column of each dimension, int64; -1 where there is none."""
        if not len(self._dims):
            return np.full(len(dims), -1, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._dims, dims, sorter=self._order), len(self._dims) - 1)
        columns = self._order[at]
        return np.where(self._dims[columns] == dims, columns, -1)

    def _append(self, rows: Sparse) -> None:
        """Put rows and their levels behind the rows there are, without links; makes room where there is none."""
        fresh = np.setdiff1d(rows.indices.astype(np.int64), self._dims)
        self._dims = np.concatenate([self._dims, fresh])
        self._order = np.argsort(self._dims, kind="stable")
        n_columns, values, m = len(self._dims), self.settings["values"], self.settings["connectivity"]
        starts, ids, numbers = _forward(rows.indptr, self._columns(rows.indices), rows.data, n_columns, values)
        levels = levels_of(self._count, self._count + len(rows), m, self.settings["seed"])
        old, count = self._graph, self._count
        slots, stop = int(old.starts[count]), count + len(rows)
        if slots + len(ids) > NONE:
            raise BadInput(f"the rows have {(slots + len(ids)) * LANES} numbers; an index holds {NONE * LANES}")
        wide = old.ids if n_columns <= NARROW else old.ids.astype(np.uint32, copy=False)
        higher = self._higher + int(levels.sum(dtype=np.int64))
        graph = old._replace(
            starts=longer(old.starts, count + 1, stop + 1), ids=longer(wide, slots, slots + len(ids)),
            numbers=longer(old.numbers, slots, slots + len(ids)), levels=longer(old.levels, count, stop),
            links=longer(old.links, count, stop), above=longer(old.above, count, stop),
            higher=longer(old.higher, self._higher, higher), twins=longer(old.twins, count, stop),
            heads=longer(old.heads, len(old.heads), n_columns),
            peaks=longer(old.peaks, len(old.peaks), n_columns),
        )  # fmt: skip
        graph.starts[count : stop + 1] = starts + np.uint32(slots)
        graph.ids[slots : slots + len(ids)], graph.numbers[slots : slots + len(ids)] = ids, numbers
        graph.levels[count:stop], graph.links[count:stop], graph.twins[count:stop] = levels, NONE, NONE
        graph.above[count:stop] = self._higher + np.cumsum(levels, dtype=np.int64) - levels
        graph.higher[self._higher : higher] = NONE
        graph.heads[len(old.heads) : n_columns], graph.peaks[len(old.peaks) : n_columns] = NONE, 0
        self._graph = graph

    def _trimmed(self) -> dict[str, np.ndarray]:
        """The arrays as far as they are in use, by name."""
        graph, n, columns = self._graph, self._count, len(self._dims)
        slots = int(graph.starts[n])
        ends = {
            "starts": n + 1, "ids": slots, "numbers": slots, "levels": n, "links": n, "above": n,
            "higher": self._higher, "twins": n, "entry": 1, "heads": columns, "peaks": columns,
        }  # fmt: skip
        return {**{name: getattr(graph, name)[:end] for name, end in ends.items()}, "dims": self._dims}
