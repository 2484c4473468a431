"""Multi-vector rows on disk against rows in memory: what re-ranking costs when its documents must be read first.

Documents have a CLS row of 128 numbers and 29 to 60 token rows of 32, which with float16 is one block of 4 KiB each.
They are drawn from a seed: fields, themes around a field (100 documents each), documents around a theme, tokens around
a document; a query takes 32 tokens of one document and its CLS row, and disturbs them. Every query finds `K` candidates
by the same inverted lists; what differs is where their documents come from. Before each query the system is made to
forget the file, so that every block comes from the disk; forgetting is not timed. Contenders take turns within each
query. What is read from the slot file is also verified, which memory and the mapped file do not pay for.

How fast the disk is by itself comes first, because the other figures follow from it.
"""

from __future__ import annotations

import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.harness import Quality, Ratios, Row, UnequalQuality, ratios

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Multi-vector rows on disk (ESPN)"
PACKAGES = ("inlay", "numpy", "numba")
CLS, BOW, QUERY = 128, 32, 32  # numbers of a CLS row and of a token, tokens of a query
K, PARTIAL, STEP, PROBES = 200, 64, 0.3, 64
ROUNDS = 9  # queries are parted into so many groups; each gives one ratio of medians

SAME = Quality("overlap@10 with the re-rank in memory", 0.001)
AS_GOOD = Quality("MRR@10", 0.01, at_least=True)


class Corpus(NamedTuple):
    """Documents and queries: each query's answer is the document it was made of."""

    cls: np.ndarray
    values: np.ndarray
    offsets: np.ndarray
    query_cls: np.ndarray
    query_tokens: np.ndarray
    answers: np.ndarray


def drawn(documents: int, queries: int, seed: int = 0) -> Corpus:
    """A corpus of float16 rows at length 1."""
    random = np.random.default_rng(seed)
    fields = _around(random, np.zeros((1, CLS), np.float32), documents // 2000, 1.0)
    themes = _around(random, fields, documents // 100, 0.7)
    to_tokens = random.standard_normal((CLS, BOW)).astype(np.float32) / CLS**0.5
    counts = random.integers(29, 61, documents)  # 28 would be 2 KiB, and two documents share a block
    offsets = np.concatenate([[0], np.cumsum(counts)])
    values = np.empty((int(offsets[-1]), BOW), dtype=np.float16)
    cls = np.empty((documents, CLS), dtype=np.float16)
    for start in range(0, documents, 10_000):
        stop = min(start + 10_000, documents)
        topics = _around(random, themes, stop - start, 0.6)
        cls[start:stop] = topics
        around = np.repeat(topics @ to_tokens, counts[start:stop], axis=0)
        values[offsets[start] : offsets[stop]] = _disturbed(random, around, 1.0)
    answers = random.choice(documents, queries, replace=False)
    picked = offsets[answers][:, None] + random.integers(0, counts[answers][:, None], (queries, QUERY))
    tokens = _disturbed(random, values[picked].astype(np.float32), 2.2)
    near = _disturbed(random, cls[answers].astype(np.float32), 1.8)
    return Corpus(cls, values, offsets, near, tokens, answers)


def _around(random: np.random.Generator, centres: np.ndarray, count: int, noise: float) -> np.ndarray:
    return _disturbed(random, centres[random.integers(0, len(centres), count)], noise)


def _disturbed(random: np.random.Generator, rows: np.ndarray, noise: float) -> np.ndarray:
    """Rows moved by about `noise` times a length of 1 in any direction, and brought back to length 1."""
    return _unit(rows + noise / rows.shape[-1] ** 0.5 * random.standard_normal(rows.shape, dtype=np.float32))


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class InMemory:
    """Search, then re-rank all candidates from arrays: what the others should come near to."""

    def __init__(self, index: Any, corpus: Corpus) -> None:
        self.index, self.corpus = index, corpus

    def __call__(self, cls: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        from inlay.kernels.maxsim import maxsim

        found = self.index.search(cls, K).ids[0]
        found = found[found >= 0]
        near = maxsim(tokens, self.corpus.values, self.corpus.offsets, ids=found)
        near += self.corpus.cls[found].astype(np.float32) @ cls
        return found[np.argsort(-near, kind="stable")]


class Mapped:
    """The same over the mapped slot file: MaxSim stops at every page that is not there."""

    def __init__(self, index: Any, store: Any) -> None:
        self.index = index
        with open(store.path, "rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_RANDOM"):
            self.map.madvise(mmap.MADV_RANDOM)
        header = 8 + int.from_bytes(self.map[:8], "little")
        blocks = np.frombuffer(self.map, np.float16, store.blocks * 2048, header)
        self.rows = blocks.reshape(-1, BOW)
        # A block is 64 rows: 4 of the CLS row, the tokens, and what is left over, each a "document" of the kernel.
        tokens = store.tokens(np.arange(len(store)))
        begin = np.arange(len(store)) * 64
        self.offsets = np.append(np.stack([begin, begin + 4, begin + 4 + tokens], axis=1).ravel(), len(self.rows))

    def __call__(self, cls: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        from inlay.kernels.maxsim import maxsim

        found = self.index.search(cls, K).ids[0]
        found = found[found >= 0]
        # In the order of the file, which is the best that page faults can be given.
        order = np.argsort(found)
        near = np.empty(len(found), dtype=np.float32)
        near[order] = maxsim(tokens, self.rows, self.offsets, ids=3 * found[order] + 1)
        near += self.rows.reshape(-1, 64 * BOW)[found, :CLS].astype(np.float32) @ cls
        return found[np.argsort(-near, kind="stable")]

    def forget(self) -> None:
        """Unmap the pages: what is mapped stays in memory."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.map.madvise(mmap.MADV_DONTNEED)


def measure(quick: bool = False) -> Iterator[Row]:
    """The disk alone, then each way to re-rank, then what stays in memory."""
    from inlay.indexes.espn import ESPN
    from inlay.indexes.ivf import IVF
    from inlay.indexes.slot_file import SlotFile
    from inlay.types import Ragged

    if not hasattr(os, "posix_fadvise"):
        yield Row("re-ranking from disk", "memory", refused="this system cannot be told to forget a file")
        return
    corpus = drawn(10_000 if quick else 100_000, 45 if quick else 270)
    index = IVF(CLS, dtype="float16", probes=PROBES, iterations=4 if quick else 10)
    index.add(corpus.cls.astype(np.float32))
    with (
        tempfile.TemporaryDirectory() as scratch,
        SlotFile.create(Path(scratch) / "t.slots", corpus.cls, Ragged(corpus.values, corpus.offsets)) as store,
    ):
        yield _disk(store, 5 if quick else 15)
        lists = len(index.sizes)
        for probes in (PROBES, lists):
            index.probes = probes
            how = f"{len(store):,} documents, {probes} of {lists} lists, K = {K}, cold"
            yield from _compared(how, index, store, corpus)
        yield _memory(ESPN(index, store), index, corpus)


def _disk(store: Any, rounds: int) -> Row:
    """Blocks a second: as the store reads them, and one after another."""
    random = np.random.default_rng(1)
    handle = os.open(store.path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    ours, theirs = [], []
    try:
        for _ in range(rounds):
            ids = np.sort(random.choice(store.blocks, 400, replace=False))
            store.drop_cache()
            began = time.perf_counter()
            store.start(ids, lambda places, slots: None).wait()
            ours.append(time.perf_counter() - began)
            store.drop_cache()
            began = time.perf_counter()
            for block in ids.tolist():
                os.pread(handle, 4096, (1 + block) * 4096)
            theirs.append(time.perf_counter() - began)
    finally:
        os.close(handle)
    return Row(
        "random reads of 4 KiB, cold, 400 at a time", "pread one after another", "blocks/s",
        400 / statistics.median(ours), 400 / statistics.median(theirs), ratios(ours, theirs),
        notes={"threads that read": store.threads},
    )  # fmt: skip


def _compared(how: str, index: Any, store: Any, corpus: Corpus) -> Iterator[Row]:
    from inlay.indexes.espn import ESPN

    mapped = Mapped(index, store)
    ahead = ESPN(index, store, candidates=K, rerank=None, step=STEP)
    partial = ESPN(index, store, candidates=K, rerank=PARTIAL, step=STEP)
    after = ESPN(index, store, candidates=K, rerank=None, step=0)

    def piped(pipeline: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda cls, tokens: pipeline.search(cls, tokens, 10).ids[0]

    ways = {
        "all in memory": InMemory(index, corpus),
        "mapped file, page faults": mapped,
        "read after the search": piped(after),
        "read ahead": piped(ahead),
        "read ahead, 64 re-ranked": piped(partial),
    }
    for way in ways.values():  # compiles
        for i in range(3):
            way(corpus.query_cls[i], corpus.query_tokens[i])
    for pipeline in (ahead, partial, after):
        pipeline._reads = type(pipeline.reads)()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    best: dict[str, list[list[int]]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(len(corpus.answers)):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            mapped.forget()
            store.drop_cache()
            began = time.perf_counter()
            found = ways[name](corpus.query_cls[i], corpus.query_tokens[i])
            seconds[name].append(time.perf_counter() - began)
            best[name].append(found[:10].tolist())
    whole = best["all in memory"]
    overlap = {name: float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best[name], whole)])) for name in ways}
    mrr = {name: _mrr(best[name], corpus.answers) for name in ways}
    for ours, pipeline, peers, quality, values in (
        ("read ahead", ahead, names[:3], SAME, overlap),
        ("read ahead, 64 re-ranked", partial, [*names[:2], "read ahead"], AS_GOOD, mrr),
    ):
        reads = pipeline.reads
        for peer in peers:
            row = Row(
                f"{how}: {ours}", peer, "ms/query",
                1e3 * statistics.median(seconds[ours]), 1e3 * statistics.median(seconds[peer]),
                _by_round(seconds[ours], seconds[peer]),
                {"measure": quality.measure, "ours": round(values[ours], 4), "peer": round(values[peer], 4)},
                {
                    "p99 ms": f"{_p99(seconds[ours]):.2f} : {_p99(seconds[peer]):.2f}",
                    "hit rate": round(reads.hit_rate, 3),
                    "scored before the scan ended": round(reads.early / max(1, reads.wanted), 3),
                    "KB read a query": round(reads.bytes_per_query / 1e3),
                    "ms waited after the search": round(reads.waited_ms, 2),
                    "ms of the search": round(1e3 * reads.searched / max(1, reads.queries), 2),
                },
            )  # fmt: skip
            try:
                quality.check(values[ours], values[peer])
            except UnequalQuality as why:
                row.refused = str(why)
            yield row


def _memory(pipeline: Any, index: Any, corpus: Corpus) -> Row:
    ours = pipeline.nbytes
    theirs = index.nbytes + corpus.values.nbytes + corpus.offsets.nbytes
    return Row(
        f"{len(corpus.cls):,} documents: bytes in memory, the index included", "tokens in memory as float16", "MB",
        ours / 1e6, theirs / 1e6, Ratios(*[theirs / ours] * 3, 1),
        notes={"MB of the file": round(pipeline.store.nbytes / 1e6)},
    )  # fmt: skip


def _by_round(ours: list[float], theirs: list[float]) -> Ratios:
    return ratios(*[[statistics.median(side[i::ROUNDS]) for i in range(ROUNDS)] for side in (ours, theirs)])


def _p99(seconds: list[float]) -> float:
    return 1e3 * float(np.quantile(seconds, 0.99))


def _mrr(found: list[list[int]], answers: np.ndarray) -> float:
    ranks = [row.index(answer) + 1 if answer in row else 0 for row, answer in zip(found, answers.tolist())]
    return float(np.mean([1 / rank if rank else 0.0 for rank in ranks]))
