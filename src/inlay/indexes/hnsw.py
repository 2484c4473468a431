"""Approximate nearness by a navigable small-world graph (Malkov and Yashunin, arXiv 1603.09320), on usearch.

The graph cannot be told which rows are allowed: from Python, the engine has no filter. A mask is answered in the
cheaper of two ways: by an exact scan of the allowed rows where they are few, else by fetching ever more neighbours
until k of them are allowed. Either way nothing forbidden is returned, and k rows are found if k are allowed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from inlay.errors import BadInput, Corrupt, MissingExtra
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.indexes.orders import Order, insertion_order
from inlay.kernels.dense import nearest, normalise
from inlay.types import Metric, Neighbours

__all__ = ["HNSW"]

# Microseconds to fetch a stored row from the engine and score it, and to fetch one more neighbour from the graph.
ROW_COST, NEIGHBOUR_COST = 1.5, 2.5
_ENGINE_METRICS = {"cosine": "ip", "dot": "ip", "l2": "l2sq"}
_ENGINE_DTYPES = {"float32": "f32", "float16": "f16"}


def engine() -> Any:
    """The graph class of usearch (extra `hnsw`)."""
    # onnxruntime crashes the interpreter when it is imported after usearch; before it, both work (1.32 and 2.26).
    with suppress(ImportError):
        import onnxruntime  # noqa: F401
    try:
        from usearch.index import Index
    except ImportError:
        raise MissingExtra("graph indexes", "hnsw") from None
    return Index


class HNSW:
    """Rows in a graph: search visits a few hundred of them, whatever their number (extra `hnsw`).

    Args:
        dim: width of a row.
        metric: as in `Flat`. The graph is built for distances, so `dot` is only as good as rows are of similar
            length.
        dtype: how rows are kept, `float32` or `float16`.
        connectivity: links of a row (M in the paper).
        expansion_add: candidates considered for links when a row is added (efConstruction).
        expansion_search: candidates kept during a search (ef): more is slower and finds more.
        threads: processors that build the graph, 0 for all; only with 1 is the graph the same every time.
        order: in which the rows of one `add` are inserted: `given`, `lid-desc` (those of the highest local intrinsic
            dimension first, which are hard to find if they come last), `lid-asc` or `random`; see `insertion_order`.
            Ids stay positions as given. Other orders than `given` need `threads=1`.
    """

    def __init__(
        self,
        dim: int,
        *,
        metric: Metric = "cosine",
        dtype: Literal["float32", "float16"] = "float32",
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 64,
        threads: int = 1,
        order: Order = "given",
    ) -> None:
        Graph = engine()
        if not isinstance(dim, int | np.integer) or dim < 1:
            raise BadInput(f"dim must be a positive integer, got {dim!r}")
        if metric not in get_args(Metric):
            raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        if dtype not in _ENGINE_DTYPES:
            raise BadInput(f"dtype must be float32 or float16, got {dtype!r}; for int8 use Flat")
        for name, value in (("connectivity", connectivity), ("expansion_add", expansion_add)):
            if value < 2:
                raise BadInput(f"{name} must be at least 2, got {value}")
        if expansion_search < 1:
            raise BadInput(f"expansion_search must be at least 1, got {expansion_search}")
        if order not in get_args(Order):
            raise BadInput(f"order must be one of {', '.join(get_args(Order))}, got {order!r}")
        if order != "given" and threads != 1:
            raise BadInput(f"order={order!r} needs threads=1: {threads} threads would scramble it")
        self.dim, self.metric, self.dtype = int(dim), metric, dtype
        self.connectivity, self.expansion_add, self.expansion_search = connectivity, expansion_add, expansion_search
        self.threads, self.order = threads, order
        self._graph: Any = Graph(
            ndim=self.dim,
            metric=_ENGINE_METRICS[metric],
            dtype=_ENGINE_DTYPES[dtype],
            connectivity=connectivity,
            expansion_add=expansion_add,
            expansion_search=expansion_search,
        )

    def __len__(self) -> int:
        return len(self._graph)

    def __repr__(self) -> str:
        return (
            f"HNSW({self.dim}, metric={self.metric!r}, dtype={self.dtype!r}, connectivity={self.connectivity}, "
            f"expansion_add={self.expansion_add}, expansion_search={self.expansion_search}, order={self.order!r}) "
            f"of {len(self)} rows"
        )

    @property
    def nbytes(self) -> int:
        """Bytes of rows and links, as the engine has allotted them."""
        return int(self._graph.memory_usage)

    def add(self, vectors: np.ndarray) -> None:
        """Append rows [n, dim]; ids are positions in order of addition."""
        vectors = self._ready(vectors, "row")
        if self.dtype == "float16" and len(vectors) and np.abs(vectors).max() > np.finfo(np.float16).max:
            row = int(np.abs(vectors).max(axis=1).argmax())
            raise BadInput(f"row {row} goes beyond what float16 can hold, 65504; keep float32")
        if len(vectors):
            ids = np.arange(len(self), len(self) + len(vectors))
            if self.order != "given":
                turn = insertion_order(vectors, self.order, len(self), metric=self.metric)
                ids, vectors = ids[turn], vectors[turn]
            self._graph.add(ids, vectors, threads=self.threads)

    def search(self, queries: np.ndarray, k: int, *, allow: np.ndarray | None = None) -> Neighbours:
        """About the k nearest rows of each query (exactly those, where `allow` leaves few).

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are allowed, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned.
        """
        queries, k = self._ready(queries, "query"), checked_k(k)
        allow = checked_mask(allow, len(self))
        ids = None if allow is None or allow.all() else np.flatnonzero(allow)
        allowed = len(self) if ids is None else len(ids)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = np.full((len(queries), k), -1, dtype=np.int64)
        if not allowed or not len(queries):
            return Neighbours(scores, found)
        wanted = min(k, allowed)
        # Neighbours among which k are expected to be allowed, and half as many again since filters cluster.
        depth = wanted if ids is None else -(-wanted * len(self) * 3 // (allowed * 2))
        pending = np.arange(len(queries))
        if ids is None or allowed * ROW_COST > len(queries) * depth * NEIGHBOUR_COST:
            pending = self._from_graph(queries, wanted, min(depth, len(self)), allow, scores, found)
        if len(pending):
            ids = np.arange(len(self)) if ids is None else ids
            best = nearest(queries[pending], np.stack(self._graph.get(ids)), k, metric=self.metric)
            scores[pending] = best.scores
            found[pending] = np.where(best.ids < 0, -1, ids[best.ids])
        return Neighbours(scores, found)

    def _from_graph(
        self,
        queries: np.ndarray,
        wanted: int,
        depth: int,
        allow: np.ndarray | None,
        scores: np.ndarray,
        found: np.ndarray,
    ) -> np.ndarray:
        """Fill in what the graph finds; the answer is which queries it left with fewer than `wanted` rows.

        Rows that are alike can link only to each other and leave part of a graph out of reach, so even a search for
        all rows may come back short.
        """
        pending = np.arange(len(queries))
        while len(pending) and depth <= len(self):
            matches = self._graph.search(queries[pending], depth, threads=1)
            keys = np.atleast_2d(matches.keys).astype(np.int64)
            distances = np.atleast_2d(matches.distances)
            counts = np.atleast_1d(getattr(matches, "counts", len(keys[0])))
            short = []
            for query, row, distance, count in zip(pending, keys, distances, counts):
                row, near = row[:count], self._scores(distance[:count])
                if allow is not None:
                    row, near = row[allow[row]], near[allow[row]]
                if len(row) < wanted:
                    short.append(query)
                    continue
                order = np.lexsort((row, -near))[:wanted]
                scores[query, :wanted], found[query, :wanted] = near[order], row[order]
            pending = np.array(short, dtype=np.int64)
            depth = len(self) if depth < len(self) < 2 * depth else 2 * depth
        return pending

    def _scores(self, distances: np.ndarray) -> np.ndarray:
        return -distances if self.metric == "l2" else 1 - distances

    def _ready(self, rows: np.ndarray, what: str) -> np.ndarray:
        rows = checked_rows(rows, self.dim, what=what)
        return normalise(rows) if self.metric == "cosine" else np.ascontiguousarray(rows)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write rows and graph to one `.npz` file."""
        path = Path(path)
        settings = np.array([self.dim, self.connectivity, self.expansion_add, self.expansion_search, self.threads])
        graph = np.frombuffer(self._graph.save(None), dtype=np.uint8)
        partial = path.with_name(path.name + ".partial")
        with open(partial, "wb") as file:
            names = {name: np.array(getattr(self, name)) for name in ("metric", "dtype", "order")}
            np.savez(file, graph=graph, settings=settings, **names)  # type: ignore[arg-type]
        partial.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HNSW:
        """Read what `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                dim, connectivity, expansion_add, expansion_search, threads = stored["settings"].tolist()
                index = cls(
                    dim,
                    metric=str(stored["metric"]),  # type: ignore[arg-type]
                    dtype=str(stored["dtype"]),  # type: ignore[arg-type]
                    connectivity=connectivity,
                    expansion_add=expansion_add,
                    expansion_search=expansion_search,
                    threads=threads,
                    order=str(stored["order"]) if "order" in stored else "given",  # type: ignore[arg-type]
                )
                # The sums of the zip have been checked by now: the engine itself would not notice a flipped byte.
                index._graph.load(stored["graph"].tobytes())
        except (OSError, MissingExtra):
            raise
        except Exception as error:  # what a flipped byte of a zip header can raise is a long list
            raise Corrupt(f"{path} does not hold a graph index ({error}); build and save it again") from error
        return index
