"""Exact scan of dense rows against faiss and usearch: float32, float16 and int8, one query and sixty-four.

Rows are seeded and clustered (`data.clustered`); truth is the float32 scan. Equal quality is recall@10: 1 for float32,
at least the peer's for the smaller types. Beside milliseconds stands the share of the machine's memory bandwidth: one
query must read every row, so a share near 1 means there is nothing left to win, and above 1 that cache helped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks import data, machine
from benchmarks.harness import Contender, Quality, Row, compare

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Exact dense search"
PACKAGES = ("inlay", "faiss-cpu", "usearch", "numpy", "numba")
DIM, K = 384, 10
BATCHES = (1, 64)
DTYPES = ("float32", "float16", "int8")
RECALL = Quality("recall@10", 0.002, at_least=True)

Search = Callable[[np.ndarray], np.ndarray]


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows of each type, batch and peer."""
    n = 50_000 if quick else 500_000
    rows = data.clustered(n, DIM)
    queries = _queries(rows, 256)
    truth = _truth(queries, rows)
    speed = machine.bandwidth(128 if quick else 512)
    for dtype in DTYPES:
        ours = _ours(rows, dtype)
        bytes_read = n * DIM * np.dtype(dtype).itemsize
        for peer, build in (("faiss", _faiss), ("usearch", _usearch)):
            try:
                theirs = build(rows, dtype)
            except ImportError:
                yield Row(f"{n:,} × {DIM} {dtype}", peer, refused=f"{peer} is not installed")
                continue
            for batch in BATCHES:
                row = _one(ours, theirs, peer, queries, truth, batch, f"{n:,} × {DIM} {dtype}, batch {batch}", quick)
                if batch == 1 and row.ours and row.theirs:
                    row.notes["share of memory bandwidth"] = {
                        "inlay": round(bytes_read / (row.ours / 1e3) / speed, 2),
                        peer: round(bytes_read / (row.theirs / 1e3) / speed, 2),
                    }
                yield row
            del theirs


def _one(
    ours: Search, theirs: Search, peer: str, queries: np.ndarray, truth: np.ndarray, batch: int, task: str, quick: bool
) -> Row:
    """Time one batch, a different one each call, as users ask different things."""

    def side(name: str, search: Search) -> Contender:
        blocks = [np.ascontiguousarray(queries[i : i + batch]) for i in range(0, len(queries), batch)]
        turn = iter(range(1 << 60))
        return Contender(
            name,
            lambda: search(blocks[next(turn) % len(blocks)]),
            lambda: _recall(truth, np.concatenate([search(block) for block in blocks])),
        )

    return compare(
        task, side("inlay", ours), side(peer, theirs),
        quality=RECALL, per=batch, unit="ms/query", budget=2.0 if quick else 12.0,
    )  # fmt: skip


def _ours(rows: np.ndarray, dtype: str) -> Search:
    from inlay.indexes import Flat

    index = Flat(rows.shape[1], metric="dot", dtype=dtype)
    index.add(rows)
    return lambda queries: index.search(queries, K).ids


def _fastest(forms: Sequence[Search]) -> Search:
    """A peer's ways of doing the same, of which each batch size takes whichever is fastest on its first call."""
    chosen: dict[int, Search] = {}

    def fastest(queries: np.ndarray) -> Search:
        best = [float("inf")] * len(forms)
        for _ in range(9):  # in turn, so that a busy moment does not decide
            for place, form in enumerate(forms):
                start = time.perf_counter()
                form(queries)
                best[place] = min(best[place], time.perf_counter() - start)
        return forms[int(np.argmin(best))]

    def search(queries: np.ndarray) -> np.ndarray:
        if len(queries) not in chosen:
            chosen[len(queries)] = fastest(queries)
        return chosen[len(queries)](queries)

    return search


def _faiss(rows: np.ndarray, dtype: str) -> Search:
    """faiss, with and without BLAS for a batch.

    Where it switches is a setting whose default, and whose very unit (queries, or queries × dim), differ between
    builds: left alone, a batch of 64 may be scanned query by query, six times slower than it can be, and a wrong value
    makes one query twice as slow.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    dim, inner = rows.shape[1], faiss.METRIC_INNER_PRODUCT
    index = {
        "float32": lambda: faiss.IndexFlatIP(dim),
        "float16": lambda: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, inner),
        "int8": lambda: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, inner),
    }[dtype]()
    index.train(rows[:: max(1, len(rows) // 100_000)])
    index.add(rows)

    def form(threshold: int) -> Search:
        def search(queries: np.ndarray) -> np.ndarray:
            faiss.cvar.distance_compute_blas_threshold = threshold
            return index.search(queries, K)[1]

        return search

    return _fastest([form(1), form(1 << 30)])


def _usearch(rows: np.ndarray, dtype: str) -> Search:
    """usearch, by its exact function (faster for a batch) and by an index asked to be exact (faster for one)."""
    from usearch.index import Index, MetricKind, search

    scale = 127 / np.abs(rows).max()  # int8 needs one scale for rows and queries: it multiplies bytes by bytes

    def stored(values: np.ndarray) -> np.ndarray:
        if dtype == "int8":
            return np.clip(np.round(values * scale), -127, 127).astype(np.int8)
        return values.astype(dtype)

    kept = stored(rows)
    short = {"float32": "f32", "float16": "f16", "int8": "i8"}[dtype]
    # The graph is not used, so the cheapest one will do.
    index = Index(ndim=rows.shape[1], metric="ip", dtype=short, connectivity=2, expansion_add=1)
    index.add(np.arange(len(rows)), kept, threads=1)

    def by_function(queries: np.ndarray) -> np.ndarray:
        found = search(kept, stored(queries), K, MetricKind.IP, exact=True, threads=1)
        return np.atleast_2d(found.keys.astype(np.int64))

    def by_index(queries: np.ndarray) -> np.ndarray:
        return np.atleast_2d(index.search(stored(queries), K, exact=True, threads=1).keys.astype(np.int64))

    return _fastest([by_function, by_index])


def _queries(rows: np.ndarray, n: int) -> np.ndarray:
    """Rows with noise, so that each query lies in a cluster but on no row."""
    rng = np.random.default_rng(7)
    asked = rows[rng.integers(len(rows), size=n)]
    asked = asked + 0.5 / np.sqrt(DIM) * rng.standard_normal(asked.shape, dtype=np.float32)
    return (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)


def _truth(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The ten nearest by a plain product, int64 [queries, 10]."""
    best = np.full((len(queries), 0), 0, dtype=np.int64)
    for start in range(0, len(rows), 50_000):
        block = queries @ rows[start : start + 50_000].T
        top = np.argpartition(-block, K, axis=1)[:, :K] + start
        best = np.concatenate([best, top], axis=1)
    scores = np.einsum("qd,qkd->qk", queries, rows[best])
    return np.take_along_axis(best, np.argsort(-scores, axis=1)[:, :K], axis=1)


def _recall(truth: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(truth.tolist(), found.tolist())]))
