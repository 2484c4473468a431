"""Seismic against pyseismic-lsr, the authors' own in Rust, at the same parameters, and against exact search.

Rows are those of `benchmarks.sparse_corpus`: real text expanded by co-occurrence sampling, about 130 weights a document
and 42 a query, which stands in for a learned sparse encoder. Accuracy@10 is the share of the true ten best that are
found; truth is by reading every row. For each target, `Seismic.calibrate` chooses the settings on half of the queries;
the other half is timed, on both sides with these settings. One thread; calls from Python are part of the time. The peer
takes one query a call, so it is compared with ours one a call, and ours in a batch is beside.

The largest size is against exact search alone: what skipping blocks is worth shows where there is most to skip.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contender, Quality, Row, compare, ratios
from benchmarks.sparse_corpus import TEXTS, Corpus
from inlay.reproductions.indexes._pyseismic import Peer

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Sparse search (Seismic)"
PACKAGES = ("inlay", "pyseismic-lsr", "numpy", "numba")
TARGETS = (0.90, 0.95, 0.99)
SIZES = (50_000, 200_000)
LARGEST = 1_000_000
K = 10
FOUND = Quality("accuracy@10", 0.01, at_least=True)


def measure(quick: bool = False) -> Iterator[Row]:
    """Building, bytes, and searching at each target, for each size."""
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    corpus = Corpus(TEXTS[2:3] if quick else TEXTS)
    asked = corpus.queries(200 if quick else 2000)
    for size in (2000,) if quick else SIZES:
        yield from _size(corpus.documents(size), asked, 2.0 if quick else 15.0)
    if not quick:
        yield from _size(corpus.documents(LARGEST), asked, 30.0, against_peer=False)


def _size(rows: Any, asked: Any, budget: float, *, against_peer: bool = True) -> Iterator[Row]:
    from inlay.indexes import Inverted
    from inlay.indexes.seismic import Seismic

    Seismic().search(rows[:0], 1)
    warm = Seismic()  # compiles
    warm.add(rows[:500])
    warm.search(rows[:1], 1)
    name = f"{len(rows):,} documents"
    settings: dict[str, Any] = {
        "n_postings": max(160, len(rows) // 200), "max_fraction": 1.5, "centroid_fraction": 0.1,
        "min_cluster_size": 2, "summary_energy": 0.4, "doc_cut": 15,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        begun = time.perf_counter()
        ours = Seismic(**settings)
        ours.add(rows)
        parts = ours.nbytes_of_parts  # builds
        seconds = time.perf_counter() - begun
        peer, theirs, why = _peer(rows, folder, settings) if against_peer else (None, 0.0, "too large to build twice")
        if peer is None:
            yield Row(f"{name}: build", "pyseismic-lsr", ours=seconds, notes=parts, refused=why)
        else:
            yield Row(f"{name}: build", "pyseismic-lsr", "s", seconds, theirs, ratios([seconds], [theirs]))
            ours.save(folder / "ours")
            size, other = (folder / "ours").stat().st_size, peer.nbytes(folder)
            yield Row(f"{name}: file", "pyseismic-lsr", "bytes", size, other, ratios([size], [other]), notes=parts)
    half = len(asked) // 2
    front = ours.calibrate(asked[:half], K)
    fresh = asked[half:]
    truth = ours.exact(fresh, K).ids
    exact = Inverted()
    exact.add(rows)
    exact.search(fresh[:1], K)
    for target in TARGETS:
        setting = next((s for s in front if s["recall"] >= target), None)
        if setting is None:
            yield Row(f"{name}: search at {target:.0%}", "pyseismic-lsr", refused=f"best is {front[-1]['recall']:.4f}")
            continue
        how = {"query_cut": int(setting["query_cut"]), "heap_factor": setting["heap_factor"]}
        yield from _target(f"{name}, {target:.0%} accuracy", ours, peer, exact, fresh, truth, how, budget)


def _peer(rows: Any, folder: Path, settings: dict[str, Any]) -> tuple[Peer | None, float, str]:
    """(the peer's index, seconds to build it, why there is none)."""
    Peer.write(rows, folder / "rows.bin")
    begun = time.perf_counter()
    try:
        peer = Peer(folder / "rows.bin", **settings)
    except ImportError:
        return None, 0.0, "it is not installed"
    return peer, time.perf_counter() - begun, ""


def _target(
    name: str, ours: Any, peer: Peer | None, exact: Any, queries: Any, truth: np.ndarray, how: dict[str, Any],
    budget: float,
) -> Iterator[Row]:  # fmt: skip
    n = len(queries)
    single = [queries[i : i + 1] for i in range(n)]
    pairs = [(one.indices.astype(np.int32), one.data) for one in single]
    found = _accuracy(truth, ours.search(queries, K, **how).ids)
    notes = {**how, "documents scored": round(ours.work(queries, K, **how).scored), "accuracy@10": round(found, 4)}
    if peer is not None:

        def theirs() -> np.ndarray:
            return peer.search(pairs, K, **how)

        yield compare(
            f"{name}: one query a call",
            Contender("inlay", lambda: [ours.search(one, K, **how) for one in single], lambda: found),
            Contender("pyseismic-lsr", theirs, lambda: _accuracy(truth, theirs())),
            quality=FOUND, per=n, unit="queries/s", budget=budget, notes=notes,
        )  # fmt: skip
        yield compare(
            f"{name}: batch of {n} (the peer one a call)",
            Contender("inlay", lambda: ours.search(queries, K, **how), lambda: found),
            Contender("pyseismic-lsr", theirs, lambda: _accuracy(truth, theirs())),
            quality=FOUND, per=n, unit="queries/s", budget=budget, notes=notes,
        )  # fmt: skip
    yield compare(
        f"{name}: batch of {n} against exact search",
        Contender("Seismic", lambda: ours.search(queries, K, **how)),
        Contender("Inverted (exact)", lambda: exact.search(queries, K)),
        per=n, unit="queries/s", budget=budget, notes=notes,
    )  # fmt: skip


def _accuracy(truth: np.ndarray, found: np.ndarray) -> float:
    hits = sum(np.isin(t[t >= 0], f).sum() for t, f in zip(truth, found))
    return float(hits / (truth >= 0).sum())
