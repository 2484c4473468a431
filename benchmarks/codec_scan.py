"""The scan of codes against faiss' codes of the same size: one query, one thread, half a million rows.

Rows are real: short texts under the encoder in the box (`INLAY_BENCH_CACHE` names a folder in which vectors are kept
between runs). Where there are fewer than half a million, they are repeated with noise a tenth of the distance to the
nearest row, so that no two are equal. Truth is the ten nearest by float32, queries are texts that are not searched.

Equal quality is recall@10 at least the peer's, at no more bytes a row. Product quantisers of both sides scan the same
codes, of the centres that ours learnt: recall of centres that each learns from the same sample differs by a point or
two with the seed alone, in either direction. What the peer's own centres find is in the notes.

Beside milliseconds stand bytes a second and the share of the machine's memory bandwidth: a scan must read every code,
so a share near 1 means there is nothing left to win, and above 1 that caches or bandwidth were better than when it was
measured.

The last rows have no peer: formats that faiss does not scan.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import machine
from benchmarks.binary import _recall, _vectors
from benchmarks.harness import Contender, Quality, Row, compare

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Scanning codes"
PACKAGES = ("inlay", "faiss-cpu", "numpy", "numba")
K, QUERIES, LEARN = 10, 200, 30_000
ROWS, TEXTS = 500_000, 60_000
BATCHES = (1, 64)
NOISE = 0.1
RECALL = Quality("recall@10", 0.002, at_least=True)

Search = Callable[[np.ndarray], np.ndarray]


class Pair(NamedTuple):
    """Our codec by name, the peer's index by name, and how it is made."""

    ours: str
    peer: str
    make: Callable[[Any, int], Any]


def measure(quick: bool = False) -> Iterator[Row]:
    """A row for each pair and batch, then our other formats alone."""
    from inlay.codecs import codec
    from inlay.codecs.product import ProductQuantiser
    from inlay.indexes import Coded

    kept, queries = _rows(20_000 if quick else ROWS)
    dim = kept.shape[1]
    truth = _truth(queries, kept)
    speed = machine.bandwidth(128 if quick else 512)
    learn = kept[:: max(1, len(kept) // LEARN)]

    def made(name: str) -> Coded:
        index = Coded(codec(name).fit(learn), dim=None if name != "float16" else dim)
        index.add(kept)
        return index

    for pair in _pairs(dim):
        try:
            import faiss
        except ImportError:
            yield Row(f"{len(kept):,} × {dim}, {pair.ours}", pair.peer, refused="faiss is not installed")
            continue
        faiss.omp_set_num_threads(1)
        ours = made(pair.ours)
        theirs, size = _filled(pair.make(faiss, dim), learn, kept)
        notes: dict[str, Any] = {"bytes a row": {"inlay": ours.codec.nbytes(dim), pair.peer: size}}
        if isinstance(ours.codec, ProductQuantiser):
            notes["recall@10 with the peer's own centres"] = round(_recall(truth, theirs(queries)), 4)
            theirs, size = _filled(pair.make(faiss, dim), learn, kept, np.stack(ours.codec.centres))
        for batch in BATCHES:
            task = f"{len(kept):,} × {dim}, {pair.ours}, batch {batch}"
            yield _one(task, ours, theirs, pair.peer, size, queries, truth, batch, speed, quick, dict(notes))
        del ours, theirs
    for name in ("float8", "float4", "int4", "percentiles:4", "percentiles:8", "ternary", "signs", "pca:0.5|float8"):
        index = made(name)
        yield Row(f"{len(kept):,} × {dim}, {name}, batch 1", "no peer", notes=_alone(index, queries, truth, speed))
        del index


def _pairs(dim: int) -> list[Pair]:
    def scalar(kind: str) -> Callable[[Any, int], Any]:
        return lambda faiss, dim: faiss.IndexScalarQuantizer(
            dim, getattr(faiss.ScalarQuantizer, kind), faiss.METRIC_INNER_PRODUCT
        )

    return [
        Pair("int8-calibrated", "faiss SQ, QT_8bit", scalar("QT_8bit")),
        Pair("float16", "faiss SQ, QT_fp16", scalar("QT_fp16")),
        Pair("int4", "faiss SQ, QT_4bit", scalar("QT_4bit")),
        Pair(
            f"pq:{dim // 4}x4", "faiss PQ fast-scan",
            lambda faiss, dim: faiss.IndexPQFastScan(dim, dim // 4, 4, faiss.METRIC_INNER_PRODUCT),
        ),
        Pair(
            f"pq:{dim // 8}x8", "faiss PQ",
            lambda faiss, dim: faiss.IndexPQ(dim, dim // 8, 8, faiss.METRIC_INNER_PRODUCT),
        ),
        Pair("signs?symmetric=true", "faiss binary", lambda faiss, dim: faiss.IndexBinaryFlat(dim)),
    ]  # fmt: skip


def _filled(
    index: Any, learn: np.ndarray, kept: np.ndarray, centres: np.ndarray | None = None
) -> tuple[Search, int]:  # fmt: skip
    """A peer's search, and the bytes it keeps of a row; `centres` take the place of those it learns."""
    if type(index).__name__ == "IndexBinaryFlat":
        index.add(np.packbits(kept > 0, axis=1))
        return lambda queries: index.search(np.packbits(queries > 0, axis=1), K)[1], index.code_size
    index.train(learn)
    if centres is not None:
        import faiss

        faiss.copy_array_to_vector(centres.ravel(), index.pq.centroids)
    index.add(kept)
    return lambda queries: index.search(queries, K)[1], index.sa_code_size()


def _one(
    task: str, ours: Any, theirs: Search, peer: str, size: int, queries: np.ndarray, truth: np.ndarray, batch: int,
    speed: float, quick: bool, notes: dict[str, Any],
) -> Row:  # fmt: skip
    blocks = [np.ascontiguousarray(queries[i : i + batch]) for i in range(0, len(queries) - batch + 1, batch)]
    turn = iter(range(1 << 60))

    def side(name: str, search: Search) -> Contender:
        return Contender(
            name,
            lambda: search(blocks[next(turn) % len(blocks)]),
            lambda: _recall(truth, np.concatenate([search(block) for block in np.array_split(queries, 4)])),
        )

    own = ours.codec.nbytes(ours.dim)
    row = compare(
        task, side("inlay", lambda asked: ours.search(asked, K).ids), side(peer, theirs),
        quality=RECALL, per=batch, unit="ms/query",
        budget=2.0 if quick else 10.0, notes=notes,
    )  # fmt: skip
    if batch == 1 and row.ours and row.theirs:
        rates = {"inlay": len(ours) * own / (row.ours / 1e3), peer: len(ours) * size / (row.theirs / 1e3)}
        row.notes["GB/s"] = {name: round(rate / 1e9, 1) for name, rate in rates.items()}
        row.notes["share of memory bandwidth"] = {name: round(rate / speed, 2) for name, rate in rates.items()}
    return row


def _alone(index: Any, queries: np.ndarray, truth: np.ndarray, speed: float) -> dict[str, Any]:
    found, times = [], []
    index.search(queries[:1], K)
    for query in queries[:100]:
        start = time.perf_counter()
        found.append(index.search(query[None], K).ids[0])
        times.append(time.perf_counter() - start)
    usual, size = statistics.median(times), index.codec.nbytes(index.dim)
    return {
        "ms/query": round(usual * 1e3, 2),
        "bytes a row": size,
        "GB/s": round(len(index) * size / usual / 1e9, 1),
        "share of memory bandwidth": round(len(index) * size / usual / speed, 2),
        "recall@10": round(_recall(truth[: len(found)], np.array(found)), 4),
    }


def _rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows float32 [count, dim] of real texts, repeated with noise where there are too few; and queries."""
    real = _vectors(8_000 if count < ROWS else TEXTS)
    order = np.random.default_rng(0).permutation(len(real))
    queries, kept = real[order[:QUERIES]], real[order[QUERIES:]][:count]
    if len(kept) < count:
        random = np.random.default_rng(1)
        some = kept[:1000]
        nearest = np.partition(some @ kept.T, -2, axis=1)[:, -2]
        size = NOISE * float(np.sqrt(np.maximum(2 - 2 * nearest, 0)).mean()) / np.sqrt(kept.shape[1])
        made = np.empty((count, kept.shape[1]), dtype=np.float32)
        for start in range(0, count, len(kept)):
            block = made[start : start + len(kept)]
            block[:] = kept[: len(block)]
            if start:
                block += size * random.standard_normal(block.shape, dtype=np.float32)
                block /= np.linalg.norm(block, axis=1, keepdims=True)
        kept = made
    return np.ascontiguousarray(kept), np.ascontiguousarray(queries)


def _truth(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The ten nearest by a plain product, int64 [queries, 10]."""
    from inlay.kernels.dense import nearest

    return nearest(queries, rows, K).ids
