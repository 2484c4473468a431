"""Lists on disk of one size: what is asked of them, and what that costs them and the four ways beside.

What is measured, and what has to come of it, is told in `inlay.reproductions.indexes.disk_ivf`.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.reproductions.indexes._lists_corpus import (
    TYPES,
    Faiss,
    Interleaved,
    Rows,
    Texts,
    device_bytes,
    drawn,
    truth,
)

K, RECALL = 10, 0.95
SHARES = {"all": 1.0, "half": 0.5, "tenth": 0.1, "hundredth": 0.01}
EACH, ITERATIONS, PILOT, TUNE = 1500, 5, 8, 250
OURS, SIDE, POST, FLAT, HALF = "attributes first", "interleaved", "filter afterwards", "faiss float32", "faiss float16"


class Asked(NamedTuple):
    """A query, and what it asks for."""

    query: np.ndarray
    share: str
    where: dict[str, int]


class Size:
    """An index of one size, and what is asked of it."""

    def __init__(self, texts: Texts, n: int, seeds: Sequence[int], queries: int, folder: Path) -> None:
        from inlay.indexes.disk_ivf import DiskIVF

        self.n, self.folder, self.seeds = n, folder, seeds
        self.rows: Rows = drawn(texts, n, seeds[0])
        began = time.perf_counter()
        self.index = DiskIVF.create(
            folder / "index", texts.vectors.shape[1], attributes=TYPES, lists=round(2 * n**0.5), iterations=ITERATIONS
        )
        fit = np.random.default_rng(0).choice(n, min(n, 32 * round(2 * n**0.5)), replace=False)
        self.index.fit(self.rows.vectors[np.sort(fit)])
        self.index.add(self.rows.vectors, self.rows.attributes)
        self.built = time.perf_counter() - began
        tune, rest = texts.queries[:TUNE], texts.queries[TUNE:]
        self.pilot = tune
        self.probes = self.index.calibrate(tune, recall=RECALL)[10]
        self.asked: list[Asked] = []
        for i, seed in enumerate(seeds):
            filters = _filters(np.random.default_rng(seed))
            for query in rest[i * queries : (i + 1) * queries]:
                self.asked += [Asked(query, *one) for one in filters]
        masks = [_mask(self.rows, one.where) for one in self.asked]
        self.truth = self._truth(masks)
        self.masks = masks

    def _truth(self, masks: list[np.ndarray | None]) -> list[np.ndarray]:
        found: list[np.ndarray] = [np.empty(0)] * len(self.asked)
        by_filter: dict[str, list[int]] = {}
        for i, one in enumerate(self.asked):
            by_filter.setdefault(str(one.where), []).append(i)
        for places in by_filter.values():
            mask = masks[places[0]]
            some = np.stack([self.asked[i].query for i in places])
            ids = truth(some, self.rows.vectors, None if mask is None else np.flatnonzero(mask), K)
            for place, own in zip(places, ids):
                found[place] = own
        return found

    def grown(self) -> dict[str, Any]:
        """Cost of our searches at this size."""
        from inlay.indexes.disk_ivf_search import DiskReads

        index = self.index
        for one in self.asked[: 5 * len(SHARES)]:  # compiles
            index.search(one.query, K, where=one.where, probes=self.probes)
        own: dict[str, Any] = {
            "rows": self.n, "lists": len(index._centroids), "probes": self.probes, "file bytes": index.nbytes,
            "bytes in memory": index.resident - index.working, "bytes worked in": index.working,
            "seconds to build": round(self.built, 1),
        }  # fmt: skip
        for name in SHARES:
            places = [i for i, one in enumerate(self.asked) if one.share == name]
            index.reads = DiskReads()
            took, right = [], []
            for i in places:
                index.drop_cache()
                began = time.perf_counter()
                found = index.search(self.asked[i].query, K, where=self.asked[i].where, probes=self.probes).ids[0]
                took.append(time.perf_counter() - began)
                right.append(len(set(found.tolist()) & set(self.truth[i].tolist())) / K)
            reads = index.reads
            own[name] = {
                "bytes": round(reads.bytes_per_query), "head bytes": round(reads.head_bytes / len(places)),
                "requests": round(reads.requests / len(places), 1),
                "p50 ms, cold": round(1e3 * statistics.median(took), 3), "recall@10": round(float(np.mean(right)), 4),
            }  # fmt: skip
        return own

    def compared(self, progress: bool) -> dict[str, Any]:
        """The ways of the comparison, query by query."""
        from inlay.indexes.attribute_filter import Predicate
        from inlay.indexes.disk_ivf_search import DiskReads

        index, part = self.index, self.index._parts[0]
        side = Interleaved(index, self.folder / "interleaved")
        flat = Faiss(index, self.rows.vectors, self.folder / "flat", half=False)
        half = Faiss(index, self.rows.vectors, self.folder / "half", half=True)
        say(progress, "others built")
        selectors = {str(one.where): m if m is None else flat.allowed(m) for one, m in zip(self.asked, self.masks)}
        predicates = {str(one.where): Predicate(index.columns, one.where) for one in self.asked}
        ways: dict[str, Callable[[Asked], np.ndarray]] = {
            OURS: lambda one: index.search(one.query, K, where=one.where, probes=self.probes).ids[0],
            SIDE: lambda one: side.search(one.query, K, predicates[str(one.where)], self.probes),
            POST: lambda one: self._afterwards(one),
            FLAT: lambda one: flat.search(one.query, K, selectors[str(one.where)], self.probes),
            HALF: lambda one: half.search(one.query, K, selectors[str(one.where)], self.probes),
        }

        def forget() -> None:
            for one in (index.drop_cache, side.forget, flat.forget, half.forget):
                one()

        for way in ways.values():  # compiles
            way(self.asked[0])
            way(self.asked[2])
        settings = {
            name: {kind: self._tuned(peer, ways[kind], name) for kind, peer in ((FLAT, flat), (HALF, half))}
            for name in SHARES
        }
        say(progress, f"faiss reads (page by page, fetched by threads): {settings}")
        took: dict[str, dict[str, list[float]]] = {name: {way: [] for way in ways} for name in SHARES}
        moved: dict[str, dict[str, list[int]]] = {name: {way: [] for way in ways} for name in SHARES}
        warm: dict[str, dict[str, list[float]]] = {name: {way: [] for way in ways} for name in SHARES}
        found: dict[str, dict[str, list[set[int]]]] = {name: {way: [] for way in ways} for name in SHARES}
        counted: dict[str, list[DiskReads]] = {name: [] for name in SHARES}
        load = []
        for i, one in enumerate(self.asked):
            load.append(os.getloadavg()[0])
            for kind, peer in ((FLAT, flat), (HALF, half)):
                peer.tune(settings[one.share][kind])
            order = list(ways)
            for name in order[i % len(order) :] + order[: i % len(order)]:
                forget()
                index.reads = DiskReads()
                before, began = device_bytes(), time.perf_counter()
                ids = ways[name](one)
                took[one.share][name].append(time.perf_counter() - began)
                moved[one.share][name].append(device_bytes() - before)
                if name == OURS:
                    counted[one.share].append(index.reads)
                    index.reads = DiskReads()
                found[one.share][name].append({int(x) for x in ids if x >= 0})
                began = time.perf_counter()
                ways[name](one)
                warm[one.share][name].append(time.perf_counter() - began)
        shares: dict[str, dict[str, dict[str, Any]]] = {}
        for share in SHARES:
            wanted = [set(self.truth[i].tolist()) for i, one in enumerate(self.asked) if one.share == share]
            shares[share] = {}
            for name in ways:
                own, seconds, theirs = found[share][name], took[share][name], found[share][HALF]
                agree = sum(len(a & b) for a, b in zip(own, theirs)) / sum(map(len, theirs))
                shares[share][name] = {
                    "bytes": round(statistics.median(moved[share][name])),
                    "p50 ms": round(1e3 * statistics.median(seconds), 3),
                    "p95 ms": round(1e3 * float(np.quantile(np.array(seconds), 0.95)), 3),
                    "warm p50 ms": round(1e3 * statistics.median(warm[share][name]), 3),
                    "queries a second": round(len(seconds) / sum(seconds), 1),
                    "recall@10": round(float(np.mean([len(a & b) / K for a, b in zip(own, wanted)])), 4),
                    "ids of faiss float16": round(agree, 4),
                }
            say(progress, f"{share}: {shares[share]}")
        auto = self._auto()
        head = 8 * part.width + part.id_bytes
        model = {
            name: round(statistics.median(one.tested * head + one.scored * part.row_bytes for one in counted[name]))
            for name in SHARES
        }  # fmt: skip
        figures = {
            "probes": self.probes,
            "load, and cores": [round(statistics.median(load), 1), len(os.sched_getaffinity(0))],
            "dim, head bytes and row bytes of a row": [index.dim, head, part.row_bytes],
            "shares": shares,
            "auto": auto,
            "bytes of attributes, ids and s of the rows": model,
            "sorted by": index._order,
            "faiss reads page by page, threads fetch": settings,
            "bytes in memory": {
                "ours": index.resident - index.working,
                "ours, worked in": index.working,
                "faiss float32": flat.memory,
                "faiss float16": half.memory,
            },
            "unsorted lists": self._unsorted(),
        }
        for other in (side, flat, half):
            other.close()
        return figures

    def _afterwards(self, one: Asked) -> np.ndarray:
        """The index without a filter, asked for twice as many rows as should leave ten, then the filter."""
        deep = K if one.share == "all" else round(2 * K / SHARES[one.share])
        ids = self.index.search(one.query, deep, probes=self.probes).ids[0]
        ids = ids[ids >= 0]
        for name, value in one.where.items():
            ids = ids[self.rows.attributes[name][ids] == value]
        return ids[:K]

    def _tuned(self, peer: Faiss, way: Callable[[Asked], np.ndarray], share: str) -> tuple[bool, bool]:
        """The fastest way to read, over a few queries that are not measured."""
        some = [one for one in self.asked if one.share == share][:1]
        best = {}
        for ways in ((False, False), (False, True), (True, False), (True, True)):
            peer.tune(ways)
            took = []
            for query in self.pilot[:PILOT]:
                peer.forget()
                began = time.perf_counter()
                way(some[0]._replace(query=query))
                took.append(time.perf_counter() - began)
            best[ways] = statistics.median(took)
        return min(best, key=lambda ways: best[ways])

    def _auto(self) -> dict[str, dict[str, float]]:
        """Recall and lists of searches that choose how many lists they scan."""
        from inlay.indexes.disk_ivf_search import DiskReads

        own = {}
        for name in SHARES:
            places = [i for i, one in enumerate(self.asked) if one.share == name]
            self.index.reads = DiskReads()
            right = []
            for i in places:
                found = self.index.search(self.asked[i].query, K, where=self.asked[i].where, probes="auto").ids[0]
                right.append(len(set(found.tolist()) & set(self.truth[i].tolist())) / K)
            reads = self.index.reads
            own[name] = {
                "recall@10": round(float(np.mean(right)), 4), "lists": round(reads.lists / len(places), 1),
                "bytes": round(reads.bytes_per_query),
            }  # fmt: skip
        return own

    def _unsorted(self) -> dict[str, float]:
        """Bytes of rows read if lists were in order of id in place of attributes, over those read, by share."""
        from inlay.indexes.attribute_filter import Predicate
        from inlay.kernels.list_rows import plan

        part = self.index._parts[0]
        own = {}
        for name in ("half", "tenth", "hundredth"):
            keeps = Predicate(self.index.columns, {name: 1})
            pages = np.zeros(2)
            for block in range(0, len(part.lists), max(1, len(part.lists) // 100)):
                group = part.group(block, always=False)
                counts = np.array([len(group.ids)])
                for i, order in enumerate((np.arange(len(group.ids)), np.argsort(group.ids))):
                    rows = np.flatnonzero(keeps(group.words[:, order]))
                    pages[i] += plan(rows, np.array([0, len(rows)]), counts, part.row_bytes)[0][:, 2].sum()
            own[name] = round(float(pages[1] / pages[0]), 2)
        return own


def _filters(random: np.random.Generator) -> list[tuple[str, dict[str, int]]]:
    return [
        ("all", {}), ("half", {"half": int(random.integers(2))}), ("tenth", {"tenth": int(random.integers(10))}),
        ("hundredth", {"hundredth": int(random.integers(100))}),
    ]  # fmt: skip


def _mask(rows: Rows, where: dict[str, int]) -> np.ndarray | None:
    for name, value in where.items():
        return rows.attributes[name] == value
    return None


def say(progress: bool, line: str) -> None:
    """Where a long run is, to stderr."""
    if progress:
        print(line, file=sys.stderr, flush=True)
