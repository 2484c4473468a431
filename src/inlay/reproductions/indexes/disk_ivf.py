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

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.reproductions.indexes._lists_corpus import TYPES, encoded
from inlay.reproductions.indexes._lists_measured import EACH, FLAT, HALF, OURS, SHARES, SIDE, TUNE, Size, say
from inlay.reproductions.result import Figure, Result, Verdict

PAPER = "Billion-scale Similarity Search Using a Hybrid Indexing Approach with Advanced Filtering (arXiv 2501.13442)"
FEWER, SOONER, SAME = 5.0, 2.0, 0.999
BILLION = 1e9


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
    say(progress, f"{len(texts.vectors)} texts encoded after {time.perf_counter() - began:.0f} s")
    growth: list[dict[str, Any]] = []
    measured: dict[str, Any] = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            size = Size(texts, n, seeds, queries, Path(folder))
            say(progress, f"{n:,} rows built after {time.perf_counter() - began:.0f} s")
            growth.append(size.grown())
            say(progress, f"{growth[-1]}")
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
