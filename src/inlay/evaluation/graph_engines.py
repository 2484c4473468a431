"""HNSW graphs of three engines, built so that the order of insertion is the order given, and the levels are seeded.

Both take care. faiss shuffles the rows of one call of `add` within their levels, "to get rid of dataset order bias",
so rows are added one a call (`FaissAtOnce` is the one call, to compare with). All build with one thread, for more
would scramble the order. Which rows reach the upper levels is drawn at random: faiss and hnswlib take a seed, usearch
has a fixed one, and is moved along its sequence by rows that are added and thrown away.

Rows and queries come at length 1 where the metric is cosine, and are compared by dot product then: by distance, a zero
row would be nearer than one at right angles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from inlay.errors import BadInput, MissingExtra

__all__ = ["BACKENDS", "Graph", "build"]


class Graph(Protocol):
    """A built graph."""

    def search(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        """Places of rows in order of insertion, int64 [queries, k]; -1 where a search came back short."""
        ...

    def base_layer(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Links of the lowest layer: offsets int64 [n + 1] and places int64; None where the engine hides them."""
        ...


class Faiss:
    """faiss, a row a call."""

    at_once = False

    def __init__(self, rows: np.ndarray, dot: bool, seed: int, connectivity: int, expansion_add: int) -> None:
        with _one_thread() as faiss:
            metric = faiss.METRIC_INNER_PRODUCT if dot else faiss.METRIC_L2
            self._index = index = faiss.IndexHNSWFlat(rows.shape[1], connectivity, metric)
            index.hnsw.efConstruction = expansion_add
            index.hnsw.rng = faiss.RandomGenerator(seed + 1)
            if self.at_once:
                index.add(rows)
                return
            for i in range(len(rows)):
                index.add(rows[i : i + 1])

    def search(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        with _one_thread():
            self._index.hnsw.efSearch = ef
            ids: np.ndarray = self._index.search(queries, k)[1]
        return ids

    def base_layer(self) -> tuple[np.ndarray, np.ndarray]:
        import faiss

        graph = self._index.hnsw
        neighbours = faiss.vector_to_array(graph.neighbors)
        starts = faiss.vector_to_array(graph.offsets).astype(np.int64)[:-1]
        links = neighbours[starts[:, None] + np.arange(graph.nb_neighbors(0))].astype(np.int64)
        offsets = np.zeros(len(links) + 1, dtype=np.int64)
        np.cumsum((links >= 0).sum(axis=1), out=offsets[1:])
        return offsets, links[links >= 0]


class FaissAtOnce(Faiss):
    """faiss, all rows in one call: it shuffles them, whatever their order."""

    at_once = True


class Hnswlib:
    """hnswlib."""

    def __init__(self, rows: np.ndarray, dot: bool, seed: int, connectivity: int, expansion_add: int) -> None:
        try:
            import hnswlib
        except ImportError:
            raise MissingExtra("graphs of hnswlib", "bench") from None
        self._index = hnswlib.Index(space="ip" if dot else "l2", dim=rows.shape[1])
        self._index.init_index(
            len(rows), ef_construction=expansion_add, M=connectivity, random_seed=seed + 1
        )  # 0 and 1 are the same
        self._index.add_items(rows, np.arange(len(rows)), num_threads=1)

    def search(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        self._index.set_ef(max(ef, k))
        try:
            found = self._index.knn_query(queries, k, num_threads=1)[0]
        except RuntimeError:  # it refuses all queries where one comes back short
            return np.stack([self._one(query, k) for query in queries])
        return np.asarray(found).astype(np.int64)

    def _one(self, query: np.ndarray, k: int) -> np.ndarray:
        out = np.full(k, -1, dtype=np.int64)
        for wanted in range(k, 0, -1):
            try:
                out[:wanted] = self._index.knn_query(query, wanted, num_threads=1)[0][0]
            except RuntimeError:
                continue
            break
        return out

    def base_layer(self) -> None:
        return None


class Usearch:
    """usearch, which `HNSW` stands on."""

    def __init__(self, rows: np.ndarray, dot: bool, seed: int, connectivity: int, expansion_add: int) -> None:
        from inlay.indexes.hnsw import engine

        self._index = engine()(
            ndim=rows.shape[1],
            metric="ip" if dot else "l2sq",
            dtype="f32",
            connectivity=connectivity,
            expansion_add=expansion_add,
        )
        if seed:
            passed = np.zeros((seed % 997, rows.shape[1]), dtype=np.float32)
            self._index.add(np.arange(len(passed)), passed, threads=1)
            self._index.clear()
        self._index.add(np.arange(len(rows)), rows, threads=1)

    def search(self, queries: np.ndarray, k: int, ef: int) -> np.ndarray:
        self._index.expansion_search = ef
        found = self._index.search(queries, k, threads=1)
        keys = np.atleast_2d(found.keys).astype(np.int64)
        counts: np.ndarray = np.atleast_1d(getattr(found, "counts", np.array(keys.shape[1])))
        out = np.full((len(queries), k), -1, dtype=np.int64)
        out[:, : keys.shape[1]] = np.where(np.arange(keys.shape[1]) < counts[:, None], keys, -1)
        return out

    def base_layer(self) -> None:
        return None


BACKENDS: dict[str, Any] = {
    "faiss": Faiss,
    "faiss-at-once": FaissAtOnce,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
}


def build(
    backend: str,
    rows: np.ndarray,
    *,
    dot: bool = False,
    seed: int = 0,
    connectivity: int = 16,
    expansion_add: int = 128,
) -> Graph:
    """A graph over rows, inserted as they stand, by one thread.

    Args:
        backend: `faiss`, `hnswlib`, `usearch`, or `faiss-at-once`.
        rows: float32 [n, dim].
        dot: compare by dot product rather than by distance.
        seed: of the levels.
        connectivity: links of a row (M); the lowest layer has twice as many.
        expansion_add: candidates considered for links (efConstruction).
    """
    if backend not in BACKENDS:
        raise BadInput(f"there is no graph engine {backend!r}; known are {', '.join(BACKENDS)}")
    graph: Graph = BACKENDS[backend](np.ascontiguousarray(rows), dot, seed, connectivity, expansion_add)
    return graph


@contextmanager
def _one_thread() -> Iterator[Any]:
    """faiss, and its threads held at one meanwhile."""
    try:
        import faiss
    except ImportError:
        raise MissingExtra("graphs of faiss", "bench") from None
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)
