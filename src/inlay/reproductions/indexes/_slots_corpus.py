"""Documents of a CLS row and token rows for ESPN's measurements, and two ways to re-rank that it is compared with.

Documents have a CLS row of 128 numbers and 29 to 60 token rows of 32, which with float16 is one block of 4 KiB each.
They are drawn from a seed: fields, themes around a field (100 documents each), documents around a theme, tokens around
a document; a query takes 32 tokens of one document and its CLS row, and disturbs them.
"""

from __future__ import annotations

import mmap
import os
import time
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BOW", "CLS", "Corpus", "Disk", "InMemory", "Mapped", "disk_speed", "drawn", "mrr"]

CLS, BOW, QUERY = 128, 32, 32  # numbers of a CLS row and of a token, tokens of a query


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

    def __init__(self, index: Any, corpus: Corpus, candidates: int) -> None:
        self.index, self.corpus, self.candidates = index, corpus, candidates

    def __call__(self, cls: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        from inlay.kernels.maxsim import maxsim

        found = self.index.search(cls, self.candidates).ids[0]
        found = found[found >= 0]
        near = maxsim(tokens, self.corpus.values, self.corpus.offsets, ids=found)
        near += self.corpus.cls[found].astype(np.float32) @ cls
        return found[np.argsort(-near, kind="stable")]


class Mapped:
    """The same over the mapped slot file: MaxSim stops at every page that is not there."""

    def __init__(self, index: Any, store: Any, candidates: int) -> None:
        self.index, self.candidates = index, candidates
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

        found = self.index.search(cls, self.candidates).ids[0]
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


class Disk(NamedTuple):
    """Random reads of 4 KiB, cold; a figure for each round."""

    together: list[float]  # blocks a second as the store reads them
    alone: list[float]  # blocks a second, one after another
    work: list[float]  # seconds of a processor for a block, as the store reads them


def disk_speed(store: Any, rounds: int, *, at_once: int = 400) -> Disk:
    """Measure a slot file's disk."""
    random = np.random.default_rng(1)
    handle = os.open(store.path, os.O_RDONLY)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
    at_once = min(at_once, store.blocks)
    disk = Disk([], [], [])
    try:
        for _ in range(rounds):
            ids = np.sort(random.choice(store.blocks, at_once, replace=False))
            store.drop_cache()
            began, worked = time.perf_counter(), time.process_time()
            store.start(ids, lambda places, slots: None).wait()
            disk.together.append(at_once / (time.perf_counter() - began))
            disk.work.append((time.process_time() - worked) / at_once)
            store.drop_cache()
            began = time.perf_counter()
            for block in ids.tolist():
                os.pread(handle, 4096, (1 + block) * 4096)
            disk.alone.append(at_once / (time.perf_counter() - began))
    finally:
        os.close(handle)
    return disk


def mrr(found: list[list[int]], answers: np.ndarray) -> float:
    """Mean reciprocal rank of the answers."""
    ranks = [row.index(answer) + 1 if answer in row else 0 for row, answer in zip(found, answers.tolist())]
    return float(np.mean([1 / rank if rank else 0.0 for rank in ranks]))
