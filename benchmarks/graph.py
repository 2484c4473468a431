"""Graphs over dense rows against faiss, hnswlib and usearch: queries at equal recall, building, bytes.

Rows are texts of many kinds by the encoder in the box (`data.embedded`), queries other texts. Truth is an exact scan.
Every engine builds with the same M and efConstruction, on one thread, and is then set, by bisection of its ef on one
half of the queries, to the least that reaches the recall; the other half is timed, a query a call and all in one. Of a
peer's number types the fastest that reaches the recall is taken. faiss' lists with 4-bit codes (IVF, fast scan, and
exact refinement) are a peer of another kind.

The last rows are for collections, which choose by size: an exact scan of so many rows beside a walk with the graph and
settings of theirs (`inlay.collection.row_graphs`), a query a call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import data
from benchmarks.harness import Contender, Quality, Row, compare
from inlay.indexes.card import found_setting

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Graphs over dense rows"
PACKAGES = ("inlay", "faiss-cpu", "hnswlib", "usearch", "numpy", "numba")
ROWS, K, M, EF = 200_000, 10, 16, 128
TARGETS = (0.95, 0.99)
RECALL = Quality("recall@10", 0.006, at_least=True)
GROWING = (5_000, 10_000, 20_000, 50_000, 80_000, 200_000)
NEARLY = Quality("recall@10", 0.02)

Search = Callable[[np.ndarray, int], np.ndarray]  # (queries, ef) → ids


class Engine(NamedTuple):
    """A built index and how it is asked."""

    name: str
    search: Search
    build: float
    nbytes: int


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows for each target and peer, a query a call and all at once; then building and bytes."""
    rows, queries = data.embedded(5_000 if quick else ROWS, 400 if quick else 2000)
    truth = _truth(queries, rows)
    half = len(queries) // 2
    ours, peers = _ours(rows), []
    for build in (_faiss, _hnswlib, _usearch_f32, _usearch_f16, _usearch_i8, _faiss_lists):
        try:
            peers.append(build(rows))
        except ImportError as missing:
            yield Row(f"{len(rows):,} rows", str(missing), refused="it is not installed")
    size = f"{len(rows):,} × {rows.shape[1]}"
    for target in TARGETS:
        mine = _setting(ours, queries[:half], truth[:half], target)
        for peer in peers:
            theirs = _setting(peer, queries[:half], truth[:half], target)
            for batch in (1, half):
                task = f"{size}, recall {target}, {'one a call' if batch == 1 else f'batch {half}'}"
                if theirs is None or mine is None:
                    short = peer.name if theirs is None else ours.name
                    yield Row(task, peer.name, refused=f"{short} does not reach recall {target}")
                    continue
                yield compare(
                    task,
                    _side(ours, mine, queries[half:], truth[half:], batch),
                    _side(peer, theirs, queries[half:], truth[half:], batch),
                    quality=RECALL, per=batch, unit="ms/query", budget=1.0 if quick else 6.0,
                    notes={"ef": {"inlay": mine, peer.name: theirs}},
                )  # fmt: skip
    for peer in peers:
        yield Row(f"{size}, build", peer.name, "s", ours.build, peer.build, notes={"threads": 1})
        yield Row(f"{size}, bytes", peer.name, "MB", ours.nbytes / 1e6, peer.nbytes / 1e6)
    for count in (1_000, 4_000) if quick else GROWING:
        yield _against_a_scan(rows[:count], queries, 1.0 if quick else 3.0)


def _against_a_scan(rows: np.ndarray, queries: np.ndarray, budget: float) -> Row:
    from inlay.collection.row_graphs import CONNECTIVITY, EF, EXPANSION_ADD
    from inlay.indexes import DenseGraph, Flat

    graph = DenseGraph(rows.shape[1], connectivity=CONNECTIVITY, expansion_add=EXPANSION_ADD)
    took, flat = _seconds(lambda: graph.add(rows)), Flat.over(rows)
    truth = _truth(queries, rows)

    def walk(asked: np.ndarray, ef: int) -> np.ndarray:
        return graph.search(asked, K, ef=ef).ids

    def scan(asked: np.ndarray, _: int) -> np.ndarray:
        return flat.search(asked, K).ids

    walks = Engine("a walk", walk, took, graph.nbytes)
    scans = Engine("an exact scan", scan, 0.0, flat.nbytes)
    return compare(
        f"{len(rows):,} × {rows.shape[1]}, a walk against a scan", _side(walks, EF, queries, truth, 1),
        _side(scans, 0, queries, truth, 1), quality=NEARLY, unit="ms/query", budget=budget,
        notes={"ef": EF, "s to build": round(took, 2)},
    )  # fmt: skip


def _setting(engine: Engine, queries: np.ndarray, truth: np.ndarray, target: float) -> int | None:
    return found_setting(lambda ef: _recall(truth, engine.search(queries, ef)), target, 1, 1024)


def _side(engine: Engine, ef: int, queries: np.ndarray, truth: np.ndarray, batch: int) -> Contender:
    turn = iter(range(1 << 60))

    def run() -> Any:
        if batch > 1:
            return engine.search(queries, ef)
        at = next(turn) % len(queries)
        return engine.search(queries[at : at + 1], ef)

    return Contender(engine.name, run, lambda: _recall(truth, engine.search(queries, ef)))


def _ours(rows: np.ndarray) -> Engine:
    from inlay.indexes import DenseGraph

    DenseGraph(rows.shape[1]).add(rows[:500])  # compiles
    index = DenseGraph(rows.shape[1], connectivity=M, expansion_add=EF)
    took = _seconds(lambda: index.add(rows))
    return Engine("inlay", lambda queries, ef: index.search(queries, K, ef=ef).ids, took, index.nbytes)


def _faiss(rows: np.ndarray) -> Engine:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(rows.shape[1], M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF
    took = _seconds(lambda: index.add(rows))

    def search(queries: np.ndarray, ef: int) -> np.ndarray:
        index.hnsw.efSearch = max(ef, K)
        return index.search(queries, K)[1]

    return Engine("faiss HNSW", search, took, len(faiss.serialize_index(index)))


def _faiss_lists(rows: np.ndarray) -> Engine:
    import faiss

    faiss.omp_set_num_threads(1)
    dim = rows.shape[1]
    index = faiss.index_factory(
        dim, f"IVF{round(2 * len(rows) ** 0.5)},PQ{dim // 4}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT
    )

    def make() -> None:
        index.train(rows[:: max(1, len(rows) // 50_000)])
        index.add(rows)

    took = _seconds(make)
    lists = faiss.downcast_index(index.base_index)
    index.k_factor = 10

    def search(queries: np.ndarray, ef: int) -> np.ndarray:
        lists.nprobe = ef
        return index.search(queries, K)[1]

    return Engine("faiss IVF, 4-bit codes, refined", search, took, len(faiss.serialize_index(index)))


def _hnswlib(rows: np.ndarray) -> Engine:
    import hnswlib

    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), ef_construction=EF, M=M)
    took = _seconds(lambda: index.add_items(rows, num_threads=1))

    def search(queries: np.ndarray, ef: int) -> np.ndarray:
        index.set_ef(max(ef, K))
        return index.knn_query(queries, K, num_threads=1)[0].astype(np.int64)

    return Engine("hnswlib", search, took, index.index_file_size())


def _usearch_f32(rows: np.ndarray) -> Engine:
    return _usearch(rows, "f32")


def _usearch_f16(rows: np.ndarray) -> Engine:
    return _usearch(rows, "f16")


def _usearch_i8(rows: np.ndarray) -> Engine:
    return _usearch(rows, "i8")


def _usearch(rows: np.ndarray, dtype: str) -> Engine:
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="cos", dtype=dtype, connectivity=M, expansion_add=EF)
    took = _seconds(lambda: index.add(np.arange(len(rows)), rows, threads=1))

    def search(queries: np.ndarray, ef: int) -> np.ndarray:
        index.expansion_search = max(ef, K)
        return np.atleast_2d(index.search(queries, K, threads=1).keys.astype(np.int64))

    return Engine(f"usearch {dtype}", search, took, int(index.serialized_length))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _truth(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from inlay.kernels.dense import nearest

    return nearest(queries, rows, K).ids


def _recall(truth: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(truth.tolist(), found.tolist())]))
