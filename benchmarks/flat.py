"""Exact scan of dense rows against faiss and usearch: float32, float16 and int8, one query and sixty-four.

Rows are seeded and clustered (`data.clustered`); truth is the float32 scan. Equal quality is recall@10: 1 for float32,
at least the peer's for the smaller types. Beside milliseconds stands the share of the machine's memory bandwidth: one
query must read every row, so a share near 1 means there is nothing left to win, and above 1 that cache helped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
            name, lambda: search(blocks[next(turn) % len(blocks)]), lambda: _recall(truth, search(queries))
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


def _faiss(rows: np.ndarray, dtype: str) -> Search:
    """faiss at its fastest: products through BLAS from a batch of 20.

    A build may ship with a far higher threshold (128,000 was seen), and then scans all rows once for each query of a
    batch, several times slower than it can be. Beating that would say nothing.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    faiss.cvar.distance_compute_blas_threshold = 20
    dim, inner = rows.shape[1], faiss.METRIC_INNER_PRODUCT
    index = {
        "float32": lambda: faiss.IndexFlatIP(dim),
        "float16": lambda: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, inner),
        "int8": lambda: faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, inner),
    }[dtype]()
    index.train(rows[:: max(1, len(rows) // 100_000)])
    index.add(rows)
    return lambda queries: index.search(queries, K)[1]


def _usearch(rows: np.ndarray, dtype: str) -> Search:
    from usearch.index import MetricKind, search

    scale = 127 / np.abs(rows).max()  # int8 needs one scale for rows and queries: it multiplies bytes by bytes

    def stored(values: np.ndarray) -> np.ndarray:
        if dtype == "int8":
            return np.clip(np.round(values * scale), -127, 127).astype(np.int8)
        return values.astype(dtype)

    kept = stored(rows)
    return lambda queries: np.atleast_2d(
        search(kept, stored(queries), K, MetricKind.IP, exact=True, threads=1).keys.astype(np.int64)
    )


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
