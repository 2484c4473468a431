"""Inverted lists on disk with filters against faiss' lists on disk: equal lists, equal centroids, equal probes.

Rows are sampled up from encoded texts (`inlay.reproductions.indexes._lists_corpus`), with columns of which one value
keeps a half, a tenth or a hundredth of them. faiss is handed a ready bitmap of the ids that pass (`IDSelectorBitmap`),
which is not timed, and for each filter reads in the way that is fastest on other queries: lists fetched by its threads
or not, pages of its map one by one or ahead. Ours evaluates the filter while it is timed. Cold means that the system
is made to forget the files before each query, which is not timed; warm is the same query again. Contenders take turns
within each query. Ours verifies each page that it reads for the first time.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.harness import Quality, Ratios, Row, UnequalQuality, ratios
from inlay.errors import BadInput
from inlay.reproductions.indexes._lists_corpus import TYPES, Faiss, drawn, encoded, truth

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Inverted lists on disk, with filters"
PACKAGES = ("inlay", "faiss-cpu", "numpy", "numba")
K, RECALL, ROUNDS, PILOT = 10, 0.95, 9, 4
FILTERS: dict[str, dict[str, int]] = {
    "no filter": {},
    "half": {"half": 1},
    "tenth": {"tenth": 3},
    "hundredth": {"hundredth": 42},
}
RIGHT = Quality("recall@10", 0.005, at_least=True)


def measure(quick: bool = False) -> Iterator[Row]:
    """Every filter cold and warm, against rows of float32 and of float16; then memory."""
    if not hasattr(os, "posix_fadvise"):
        yield Row("lists on disk", "faiss", refused="this system cannot be told to forget a file")
        return
    with suppress(ImportError):
        import numba  # noqa: F401 - small sizes would not load it by themselves
    queries = 36 if quick else 135
    try:
        texts = encoded(data.folder(), 300 if quick else 1500, queries + 100)
    except BadInput as error:
        raise data.DataMissing(str(error)) from error
    for n in (20_000,) if quick else (50_000, 1_000_000):
        with tempfile.TemporaryDirectory() as scratch:
            yield from _one(texts, n, Path(scratch))


def _one(texts: Any, n: int, folder: Path) -> Iterator[Row]:
    from inlay.indexes.disk_ivf import DiskIVF

    rows = drawn(texts, n, 0)
    lists = round(2 * n**0.5)
    index = DiskIVF.create(folder / "index", texts.vectors.shape[1], attributes=TYPES, lists=lists, iterations=5)
    index.fit(rows.vectors[: 32 * lists])
    index.add(rows.vectors, rows.attributes)
    tune, asked = texts.queries[:100], texts.queries[100:]
    probes = index.calibrate(tune, recall=RECALL)[10]
    try:
        peers = {
            f"faiss {'float16' if half else 'float32'}": Faiss(index, rows.vectors, folder / str(half), half=half)
            for half in (False, True)
        }
    except ImportError:
        yield Row(f"{n:,} rows", "faiss", refused="faiss is not installed")
        return
    for name, where in FILTERS.items():
        mask = None
        for column, value in where.items():
            mask = rows.attributes[column] == value
        best = truth(asked, rows.vectors, None if mask is None else np.flatnonzero(mask), K)
        yield from _compared(
            f"{n:,} rows, {probes} of {lists} lists, {name}", index, peers, where, mask, probes, tune, asked, best
        )
    for peer, other in peers.items():
        ours = index.resident - index.working
        yield Row(
            f"{n:,} rows: bytes in memory", peer, "MB", ours / 1e6, other.memory / 1e6,
            Ratios(*[other.memory / ours] * 3, 1),
            notes={
                "MB that a search of ours reads into; faiss reads in its map": round(index.working / 1e6, 2),
                "MB of a bitmap of ids, which faiss needs for each filter": round(n / 8e6, 3),
            },
        )  # fmt: skip
    for other in peers.values():
        other.close()
    index.close()


def _compared(
    how: str, index: Any, peers: dict[str, Faiss], where: dict[str, int], mask: np.ndarray | None, probes: int,
    tune: np.ndarray, asked: np.ndarray, best: np.ndarray,
) -> Iterator[Row]:  # fmt: skip
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "inlay": lambda query: index.search(query, K, where=where, probes=probes).ids[0]
    }
    for name, peer in peers.items():
        selector = None if mask is None else peer.allowed(mask)
        ways[name] = lambda query, peer=peer, selector=selector: peer.search(query, K, selector, probes)  # type: ignore[misc]
        chosen: dict[tuple[bool, bool], float] = {}
        for setting in ((False, False), (False, True), (True, False), (True, True)):
            peer.tune(setting)
            chosen[setting] = statistics.median(_timed(ways[name], query, peer.forget) for query in tune[:PILOT])
        peer.tune(min(chosen, key=lambda setting: chosen[setting]))
    for query in tune[:3]:  # compiles
        ways["inlay"](query)

    def forget() -> None:
        index.drop_cache()
        for peer in peers.values():
            peer.forget()

    seconds: dict[str, dict[str, list[float]]] = {
        "cold": {name: [] for name in ways},
        "warm": {name: [] for name in ways},
    }
    right: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    index.reads = type(index.reads)()
    for i, query in enumerate(asked):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            seconds["cold"][name].append(_timed(ways[name], query, forget))
            began = time.perf_counter()
            found = ways[name](query)
            seconds["warm"][name].append(time.perf_counter() - began)
            right[name].append(len(set(found.tolist()) & set(best[i].tolist())) / K)
    for state, took in seconds.items():
        for name in names[1:]:
            ours, theirs = took["inlay"], took[name]
            quality = {name: float(np.mean(own)) for name, own in right.items()}
            row = Row(
                f"{how}, {state}", name, "ms/query", 1e3 * statistics.median(ours), 1e3 * statistics.median(theirs),
                ratios(*[[statistics.median(side[i::ROUNDS]) for i in range(ROUNDS)] for side in (ours, theirs)]),
                {"measure": RIGHT.measure, "ours": round(quality["inlay"], 4), "peer": round(quality[name], 4)},
                {
                    "p95 ms": f"{_p95(ours):.2f} : {_p95(theirs):.2f}",
                    "KB read a query": round(index.reads.bytes_per_query / 1e3),
                    "runs of pages a query": round(index.reads.requests / max(1, index.reads.queries), 1),
                },
            )  # fmt: skip
            try:
                RIGHT.check(quality["inlay"], quality[name])
            except UnequalQuality as why:
                row.refused = str(why)
            yield row


def _timed(way: Callable[[np.ndarray], np.ndarray], query: np.ndarray, forget: Callable[[], None]) -> float:
    forget()
    began = time.perf_counter()
    way(query)
    return time.perf_counter() - began


def _p95(seconds: list[float]) -> float:
    return 1e3 * float(np.quantile(np.array(seconds), 0.95))
