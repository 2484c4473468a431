"""A few bits a dimension against other codes of as many bytes: how much of the nearest they find, and how fast.

Rows are real: sentences, questions and captions under the encoder in the box (`INLAY_BENCH_CACHE` names a folder in
which vectors are kept between runs). Truth is the ten nearest by float32. Our codec learns from a sample of those
searched, from each row and one of its five nearest in that sample, and peers learn from the same. Recall at equal bytes
is a figure of its own here, so a peer that finds more is timed all the same, and the row says so.

The last rows are about memory alone: codes of two million rows, which no cache holds. A scan must read every byte, so
its share of the machine's memory bandwidth tells how much is left to win. A batch reads rows once for all its queries:
its rate is how fast rows are compared, which memory does not bound.
"""

from __future__ import annotations

import gzip
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data, machine
from benchmarks.harness import Contender, Row, compare

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Rows in a few bits a dimension"
PACKAGES = ("inlay", "faiss-cpu", "torch", "numpy", "numba")
K = 10
SIZES = ((192, 2), (384, 2))  # dimensions and bits of a code: 48 and 96 bytes
LEARN, QUERIES = 30_000, 1000
SCANNED = 2_000_000

Search = Callable[[np.ndarray], np.ndarray]


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows of each size and peer, then of the scan."""
    with suppress(ImportError):
        import numba  # noqa: F401 - a few queries would not load it by themselves
    rows = _vectors(8_000 if quick else None)
    order = np.random.default_rng(0).permutation(len(rows))
    learn = 3_000 if quick else LEARN
    queries, kept = rows[order[:QUERIES]], rows[order[QUERIES:]]
    train = kept[:learn]
    truth = np.concatenate([np.argpartition(-(block @ kept.T), K, axis=1)[:, :K] for block in np.split(queries, 20)])
    codes: dict[tuple[int, int], Any] = {}
    for dims, bits in SIZES[:1] if quick else SIZES:
        ours = codes[dims, bits] = _ours(train, kept, dims, bits, quick)
        size = ours.codec.nbytes(rows.shape[1])
        what = f"{len(kept):,} rows, {dims} × {bits} bits ({size} bytes)"
        for peer, build in _peers(dims * bits).items():
            try:
                theirs, bytes_a_row = build(train, kept)
            except ImportError:
                yield Row(what, peer, refused="faiss is not installed")
                continue
            once = [_seconds(lambda: ours.codec.encode(queries[:1])) for _ in range(9)]  # noqa: B023 - called at once
            notes = {"ms to code a query": round(1e3 * statistics.median(once), 3)}
            notes |= {"bytes a row": {"inlay": size, peer: bytes_a_row}}
            yield _compared(what, ours, theirs, peer, queries, truth, notes, 2.0 if quick else 8.0)
    speed = machine.bandwidth(128 if quick else 512)
    for index in codes.values():
        yield _scan(index, index.codec.encode(queries[:64]), 200_000 if quick else SCANNED, speed, quick)


def _compared(
    what: str, ours: Any, theirs: Search, peer: str, queries: np.ndarray, truth: np.ndarray, notes: dict[str, Any],
    budget: float,
) -> Row:  # fmt: skip
    turn = iter(range(1 << 60))

    def one(search: Search) -> Callable[[], Any]:
        return lambda: search(queries[next(turn) % len(queries)][None])

    def search(asked: np.ndarray) -> np.ndarray:
        return ours.search(asked, K).ids

    sides = Contender("inlay", one(search)), Contender(peer, one(theirs))
    row = compare(f"{what}, one query", *sides, unit="ms/query", budget=budget, notes=notes)
    found, wanted = _recall(truth, search(queries)), _recall(truth, theirs(queries))
    row.quality = {"measure": "recall@10", "ours": round(found, 4), "peer": round(wanted, 4)}
    row.notes["recall, ours over the peer's"] = round(found / wanted, 3)
    return row


def _scan(index: Any, queries: Any, count: int, speed: float, quick: bool) -> Row:
    """Codes repeated until no cache holds them, against a read of as many bytes and against faiss' Hamming scan."""
    from inlay.indexes.binary import Binary
    from inlay.kernels.bit_planes import BitPlanes

    codes, large = index.codes, Binary(index.codec)
    for start in range(0, count, len(codes.planes)):
        part = slice(0, count - start)
        large.add_codes(BitPlanes(codes.planes[part], codes.levels[part]))
    size = index.codec.nbytes(index.dim)
    turn = iter(range(1 << 60))

    def asked() -> BitPlanes:
        i = next(turn) % len(queries.planes)
        return BitPlanes(queries.planes[i : i + 1], queries.levels[i : i + 1])

    times = []
    for _ in range(5 if quick else 25):
        query = asked()
        start = time.perf_counter()
        large.search_codes(query, K)
        times.append(time.perf_counter() - start)
    best, usual = min(times[1:]), statistics.median(times[1:])
    figures = {
        "GB/s": round(count * size / usual / 1e9, 1),
        "share of memory bandwidth": round(count * size / usual / speed, 2),
        "share at best": round(count * size / best / speed, 2),
        "ns a row": round(usual / count * 1e9, 2),
    }
    together = min(_seconds(lambda: large.search_codes(queries, K)) for _ in range(3)) / len(queries.planes)
    figures[f"batch of {len(queries.planes)}: ms/query"] = round(together * 1e3, 3)
    figures[f"batch of {len(queries.planes)}: GB/s compared"] = round(count * size / together / 1e9, 1)
    what = f"scan of {count:,} codes, {index.codec.dims} × {index.codec.bits} bits ({size} bytes)"
    try:
        import faiss
    except ImportError:
        return Row(what, "faiss binary", refused="faiss is not installed", notes=figures)
    faiss.omp_set_num_threads(1)
    flat = codes.planes.reshape(len(codes.planes), -1).view(np.uint8)
    binary = faiss.IndexBinaryFlat(8 * flat.shape[1])
    for start in range(0, count, len(flat)):
        binary.add(flat[: count - start])
    bits = queries.planes.reshape(len(queries.planes), -1).view(np.uint8)
    return compare(
        f"{what} against as many plain bits", Contender("inlay", lambda: large.search_codes(asked(), K)),
        Contender("faiss binary", lambda: binary.search(bits[next(turn) % len(bits)][None], K)),
        unit="ms/query", budget=2.0 if quick else 10.0, notes=figures,
    )  # fmt: skip


def _ours(train: np.ndarray, kept: np.ndarray, dims: int, bits: int, quick: bool) -> Any:
    from inlay.indexes.binary import Binary
    from inlay.training.binarisation import learn_binary

    near = _near(train)
    options = {"hidden": 512, "epochs": 1 if quick else 4, "lr": 1e-4}
    index = Binary(learn_binary(train, near, dims=dims, bits=bits, **options))
    index.add(kept)
    return index


def _near(rows: np.ndarray) -> np.ndarray:
    """One of the five nearest of each row."""
    random, near = np.random.default_rng(0), np.empty_like(rows)
    for start in range(0, len(rows), 1000):
        scores = rows[start : start + 1000] @ rows.T
        scores[np.arange(len(scores)), start + np.arange(len(scores))] = -1
        five = np.argpartition(-scores, 5, axis=1)[:, :5]
        near[start : start + 1000] = rows[five[np.arange(len(five)), random.integers(5, size=len(five))]]
    return near


def _peers(bits: int) -> dict[str, Callable[[np.ndarray, np.ndarray], tuple[Search, int]]]:
    """Peers of as many bits a row, by name: each gives a search and the bytes it keeps of a row."""
    return {
        "faiss binary, random rotation": lambda train, kept: _faiss_binary(train, kept, bits),
        "faiss PQ": lambda train, kept: _faiss_factory(train, kept, f"PQ{bits // 8}"),
        "faiss PQ fast-scan": lambda train, kept: _faiss_factory(train, kept, f"PQ{bits // 4}x4fs"),
        "faiss RaBitQ": lambda train, kept: _faiss_rabitq(train, kept, bits),
    }


def _faiss_binary(train: np.ndarray, kept: np.ndarray, bits: int) -> tuple[Search, int]:
    import faiss

    faiss.omp_set_num_threads(1)
    turn = np.random.default_rng(0).standard_normal((kept.shape[1], max(bits, kept.shape[1])))
    turn = (np.linalg.qr(turn)[0] if bits <= kept.shape[1] else turn)[:, :bits].astype(np.float32)

    def coded(rows: np.ndarray) -> np.ndarray:
        return np.packbits(rows @ turn >= 0, axis=1)

    index = faiss.IndexBinaryFlat(bits)
    index.add(coded(kept))
    return lambda queries: index.search(coded(queries), K)[1], bits // 8


def _faiss_factory(train: np.ndarray, kept: np.ndarray, kind: str) -> tuple[Search, int]:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.index_factory(kept.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
    index.train(train)
    index.add(kept)
    return lambda queries: index.search(queries, K)[1], index.sa_code_size()


def _faiss_rabitq(train: np.ndarray, kept: np.ndarray, bits: int) -> tuple[Search, int]:
    """RaBitQ behind a random rotation, into fewer dimensions where a bit a dimension would be too many bits."""
    import faiss

    faiss.omp_set_num_threads(1)
    dim = kept.shape[1]
    # As many bits a dimension as fit; 8 bytes a row more for its factors, which the note counts.
    each = max(1, bits // dim)
    wide = min(dim, bits // each)
    codec = faiss.IndexRaBitQ(wide, faiss.METRIC_INNER_PRODUCT, each)
    index = faiss.IndexPreTransform(faiss.RandomRotationMatrix(dim, wide), codec)
    index.train(train)
    index.add(kept)
    return lambda queries: index.search(queries, K)[1], codec.code_size


def _vectors(limit: int | None) -> np.ndarray:
    """Unit rows of real texts under the encoder in the box, float32 [n, 384], distinct texts in a fixed order."""
    from inlay.encoders.box import Box

    folder = data.folder()
    texts = data.sentences()
    for line in gzip.decompress((folder / "pairs" / "flickr8k_captions.tsv.gz").read_bytes()).decode().splitlines()[1:]:
        texts.append(line.split("\t")[3])
    for line in gzip.decompress((folder / "pairs" / "qqp.tsv.gz").read_bytes()).decode().splitlines()[1:]:
        texts.extend(line.split("\t")[1:3])
    with gzip.open(folder / "text" / "gsm8k.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts.extend(json.loads(line)["question"] for line in lines)
    texts = list(dict.fromkeys(texts))[:limit]
    cache = os.environ.get("INLAY_BENCH_CACHE")
    path = Path(cache) / f"box-{len(texts)}.npy" if cache else None
    if path is not None and path.is_file():
        return np.load(path)
    rows = Box().encode_document(texts).astype(np.float32)
    rows = rows[np.linalg.norm(rows, axis=1) > 0]
    if path is not None:
        np.save(path, rows)
    return rows


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _recall(truth: np.ndarray, found: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(truth.tolist(), found.tolist())]))
