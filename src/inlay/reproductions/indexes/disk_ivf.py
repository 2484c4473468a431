"""Inverted lists on disk with attributes beside the rows: what a filter saves of reading, and what that is worth.

The paper claims filtered search at billion scale from disk, by testing a filter on the attributes of a list before its
vectors are read; it gives no figures that can be compared. What should follow is that a search reads the attributes of
the lists it comes to and the share s of their rows that passes: five times less than lists in which attributes and
vectors lie side by side, at s of a tenth and below, sooner in proportion, and with the very results of an inverted
index that filters by id. That is what has to hold here: bytes at most a fifth, median time at most half (both against
the interleaved form of the same lists, at s = .1 and .01), and 99.9 % of the ids of faiss at equal probes.

A million rows of 384 numbers are sampled up from encoded texts (see `_lists_corpus`), and lie in 2·√n lists. Each way
answers the same queries with as many lists as our own calibration, on other queries, asks for 95 % of the ten nearest.
Before each query the system is made to forget the file. faiss has the same lists, rows as float32 (`IVFFlat`) or
float16, its `OnDiskInvertedLists`, and a ready bitmap of the ids that pass, which is not timed; whether its threads
fetch lists ahead, and how the map is read, is chosen for each filter by what is fastest on other queries. Every seed
takes other values of the filtered columns and other queries.

Sizes of 50,000 and 200,000 show the growth; cost at 10⁹ rows is computed from it.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.reproductions.indexes._lists_corpus import (
    TYPES,
    Faiss,
    Interleaved,
    Rows,
    Texts,
    device_bytes,
    drawn,
    encoded,
    truth,
)
from inlay.reproductions.result import Figure, Result, Verdict

PAPER = "Billion-scale Similarity Search Using a Hybrid Indexing Approach with Advanced Filtering (arXiv 2501.13442)"
K, RECALL = 10, 0.95
SHARES = {"all": 1.0, "half": 0.5, "tenth": 0.1, "hundredth": 0.01}
EACH, ITERATIONS, PILOT, TUNE = 1500, 5, 8, 250
OURS, SIDE, POST, FLAT, HALF = "attributes first", "interleaved", "filter afterwards", "faiss float32", "faiss float16"
FEWER, SOONER, SAME = 5.0, 2.0, 0.999
BILLION = 1e9


class Asked(NamedTuple):
    """A query, and what it asks for."""

    query: np.ndarray
    share: str
    where: dict[str, int]


def run(
    data: Path, *, seeds: Sequence[int] = (0, 1, 2), sizes: Sequence[int] = (50_000, 200_000, 1_000_000),
    queries: int = 25, progress: bool = False,
) -> Result:  # fmt: skip
    """Build three sizes, and measure the largest against four others; eight minutes on a quiet machine."""
    if not seeds or not sizes or queries < 1:
        raise BadInput(f"seeds, sizes and queries must be there, got {list(seeds)}, {list(sizes)} and {queries}")
    try:
        import numba  # noqa: F401 - else small sizes would be measured without compiled loops, and large ones with
    except ImportError:
        raise MissingExtra("timings of searches", "fast") from None
    began = time.perf_counter()
    texts = encoded(data, EACH, len(seeds) * queries + TUNE)
    _say(progress, f"{len(texts.vectors)} texts encoded after {time.perf_counter() - began:.0f} s")
    growth: list[dict[str, Any]] = []
    measured: dict[str, Any] = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            size = _Size(texts, n, seeds, queries, Path(folder))
            _say(progress, f"{n:,} rows built after {time.perf_counter() - began:.0f} s")
            growth.append(size.grown())
            _say(progress, f"{growth[-1]}")
            if n == max(sizes):
                measured = size.compared(progress)
            size.index.close()
    shares = measured["shares"]
    tested = [name for name, share in SHARES.items() if share <= 0.1]
    fewer = {name: shares[name][SIDE]["bytes"] / shares[name][OURS]["bytes"] for name in tested}
    sooner = {name: shares[name][SIDE]["p50 ms"] / shares[name][OURS]["p50 ms"] for name in tested}
    same = min(own[OURS]["ids of faiss float16"] for own in shares.values())
    holds = {
        "fewer bytes": min(fewer.values()) >= FEWER,
        "sooner": min(sooner.values()) >= SOONER,
        "same results": same >= SAME,
    }
    verdict: Verdict = "shown" if all(holds.values()) else "partly" if any(holds.values()) else "not shown"
    far = _billion(growth, measured)
    return Result(
        name="disk-ivf",
        title="Hybrid IVF-Flat with filters, on disk",
        room="indexes",
        source=PAPER,
        claim="a filter tested on attributes that lie beside a list's vectors saves reading the vectors it refuses",
        paper="no comparable figures: sub-second filtered search over a billion vectors, by a case study",
        metric="KB read a query where a tenth passes, at equal lists",
        baseline=Figure("attributes and vector side by side", round(shares["tenth"][SIDE]["bytes"] / 1e3, 1)),
        method=Figure("attributes first", round(shares["tenth"][OURS]["bytes"] / 1e3, 1)),
        data=f"{max(sizes):,} rows of {texts.vectors.shape[1]} numbers around {len(texts.vectors):,} encoded texts, "
        f"{len(seeds)} × {queries} queries",
        verdict=verdict,
        detail=_detail(measured, growth, fewer, sooner, same, far),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds),
        figures={"holds": holds, "measured": measured, "growth": growth, "at 1e9 rows": far},
    )


class _Size:
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
        _say(progress, "others built")
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
        _say(progress, f"faiss reads (page by page, fetched by threads): {settings}")
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
            _say(progress, f"{share}: {shares[share]}")
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


def _billion(growth: list[dict[str, Any]], measured: dict[str, Any]) -> dict[str, Any]:
    """Cost at 10⁹ rows, at most: lists as 2·√n, probes along the measured slope, pages and time a row as measured.

    Rows of a filter come in longer runs where lists are longer, which is left out.
    """
    last = growth[-1]
    sizes = np.log([own["rows"] for own in growth])
    slope = 0.0
    if len(growth) > 1:
        # Rows added around the same texts may leave as many lists to scan, or fewer; more rows never make it fewer.
        slope = max(0.0, float(np.polyfit(sizes, np.log([own["probes"] for own in growth]), 1)[0]))
    probes = last["probes"] * (BILLION / last["rows"]) ** slope
    factor = probes / last["probes"] * (BILLION / last["rows"]) ** 0.5  # rows that a search comes to
    lists = round(2 * BILLION**0.5)
    dim, head, row = measured["dim, head bytes and row bytes of a row"]
    # Centroids and directory by list; a flag for every page, and a checksum for those of heads; the largest list.
    memory = lists * (2 * dim + 20 + 16 * len(TYPES)) + BILLION * (row + 5 * head) / 4096 + BILLION / lists * row
    far: dict[str, Any] = {
        "lists": lists, "probes": round(probes), "slope of probes": round(slope, 3),
        "MB in memory": round(memory / 1e6),
    }  # fmt: skip
    for name in SHARES:
        own = last[name]
        far[name] = {
            "MB": round(own["bytes"] * factor / 1e6, 1),
            "requests": round(own["requests"] * (factor if SHARES[name] < 1 else probes / last["probes"])),
            "ms": round(own["p50 ms, cold"] * factor, 1),
        }
    return far


def _detail(
    measured: dict[str, Any], growth: list[dict[str, Any]], fewer: dict[str, float], sooner: dict[str, float],
    same: float, far: dict[str, Any],
) -> str:  # fmt: skip
    shares, memory, (load, cores) = measured["shares"], measured["bytes in memory"], measured["load, and cores"]
    said = [
        f"With {measured['probes']} of {growth[-1]['lists']} lists: "
        + "; ".join(
            f"{name} ({SHARES[name]:g}): "
            + ", ".join(
                f"{way} {own['bytes'] / 1e3:,.0f} KB, {own['p50 ms']:.2f} ms (p95 {own['p95 ms']:.2f}, in the page "
                f"cache {own['warm p50 ms']:.2f}), recall {own['recall@10']:.3f}"
                for way, own in shares[name].items()
            )
            for name in SHARES
        )
        + ".",
        "Bytes are those that the system counts as read from the disk, in the median.",
        "Of the interleaved lists' bytes, "
        + " and ".join(f"1/{value:.1f} are read at s = {SHARES[name]:g}" for name, value in fewer.items())
        + f" ({FEWER:g} times fewer are asked for), in "
        + " and ".join(f"1/{value:.1f}" for value in sooner.values())
        + f" of the time (1/{SOONER:g} is asked for).",
        "Bytes read over those of attributes, ids and the share s of the rows: "
        + ", ".join(
            f"{shares[name][OURS]['bytes'] / model:.2f} at s = {SHARES[name]:g}"
            for name, model in measured["bytes of attributes, ids and s of the rows"].items()
        )
        + "; what is beyond 1 is whole pages of 4 KiB.",
        f"{load:.0f} processes wanted the {cores} cores while this was measured: times are those of a busy machine."
        if load > cores
        else f"The load was {load:.1f} on {cores} cores.",
        "Lists are sorted by their attributes; in order of id, rows would cost "
        + ", ".join(
            f"{value:.1f} times the pages at s = {SHARES[name]:g}" for name, value in measured["unsorted lists"].items()
        )
        + ".",
        f"At least {same:.2%} of the ids of every filter are those of faiss with float16 rows.",
        "Queries a second over faiss (float32 / float16): "
        + ", ".join(
            f"{shares[name][OURS]['queries a second'] / shares[name][FLAT]['queries a second']:.2f} / "
            f"{shares[name][OURS]['queries a second'] / shares[name][HALF]['queries a second']:.2f} at s = {share:g}"
            for name, share in SHARES.items()
        )
        + "; in memory "
        + f"{memory['ours'] / 1e6:.1f} MB and {memory['ours, worked in'] / 1e6:.1f} MB to read into, faiss "
        f"{memory['faiss float32'] / 1e6:.1f} MB, what it maps, and the attributes or bitmaps that make its selectors.",
        "With probes chosen by itself (asked for recall .95): "
        + ", ".join(
            f"{own['recall@10']:.3f} from {own['lists']:.0f} lists at s = {SHARES[name]:g}"
            for name, own in measured["auto"].items()
        )
        + ".",
        "Growth: "
        + "; ".join(
            f"{own['rows']:,} rows: {own['probes']} lists, recall {own['all']['recall@10']:.3f}, "
            f"{own['all']['bytes'] / 1e6:.2f} MB and {own['all']['p50 ms, cold']:.2f} ms without a filter, "
            f"{own['tenth']['bytes'] / 1e6:.2f} MB and {own['tenth']['p50 ms, cold']:.2f} ms at s = .1, "
            f"{own['bytes in memory'] / 1e6:.1f} MB in memory"
            for own in growth
        )
        + ".",
        "Rows are sampled up around the same texts, so that more of them bring few new neighbours; a real collection "
        "may need more lists as it grows.",
        f"At 10⁹ rows, if probes grow as they do here and runs stay as short: {far['lists']:,} lists of which "
        f"{far['probes']} are scanned, {far['MB in memory']:.0f} MB in memory, "
        + ", ".join(f"{far[name]['MB']:.0f} MB and {far[name]['ms']:.0f} ms at s = {SHARES[name]:g}" for name in SHARES)
        + ".",
    ]
    return " ".join(said)


def _say(progress: bool, line: str) -> None:
    if progress:
        print(line, file=sys.stderr, flush=True)
