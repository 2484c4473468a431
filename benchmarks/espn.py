"""Multi-vector rows on disk against rows in memory: what re-ranking costs when its documents must be read first.

Documents are those of `inlay.reproductions.indexes._slots_corpus`, one block of 4 KiB each. Every query finds `K`
candidates by the same inverted lists; what differs is where their documents come from. Before each query the system is
made to forget the file, so that every block comes from the disk; forgetting is not timed. Contenders take turns within
each query. What is read from the slot file is also verified, which memory and the mapped file do not pay for.

How fast the disk is by itself comes first, because the other figures follow from it.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Quality, Ratios, Row, UnequalQuality, ratios
from inlay.reproductions.indexes._slots_corpus import CLS, Corpus, InMemory, Mapped, disk_speed, drawn, mrr

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Multi-vector rows on disk (ESPN)"
PACKAGES = ("inlay", "numpy", "numba")
K, PARTIAL, STEP, PROBES = 200, 64, 0.3, 64
ROUNDS = 9  # queries are parted into so many groups; each gives one ratio of medians

SAME = Quality("overlap@10 with the re-rank in memory", 0.001)
AS_GOOD = Quality("MRR@10", 0.01, at_least=True)


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
    ours, theirs, work = disk_speed(store, rounds)
    return Row(
        "random reads of 4 KiB, cold, 400 at a time", "pread one after another", "blocks/s",
        statistics.median(ours), statistics.median(theirs), ratios(theirs, ours),
        notes={
            "threads that read": store.threads,
            "µs of a processor for a block": round(1e6 * statistics.median(work), 1),
        },
    )  # fmt: skip


def _compared(how: str, index: Any, store: Any, corpus: Corpus) -> Iterator[Row]:
    from inlay.indexes.espn import ESPN

    mapped = Mapped(index, store, K)
    ahead = ESPN(index, store, candidates=K, rerank=None, step=STEP)
    partial = ESPN(index, store, candidates=K, rerank=PARTIAL, step=STEP)
    after = ESPN(index, store, candidates=K, rerank=None, step=0)

    def piped(pipeline: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return lambda cls, tokens: pipeline.search(cls, tokens, 10).ids[0]

    ways = {
        "all in memory": InMemory(index, corpus, K),
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
    ranks = {name: mrr(best[name], corpus.answers) for name in ways}
    for ours, pipeline, peers, quality, values in (
        ("read ahead", ahead, names[:3], SAME, overlap),
        ("read ahead, 64 re-ranked", partial, [*names[:2], "read ahead"], AS_GOOD, ranks),
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
