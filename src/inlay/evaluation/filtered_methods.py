"""Methods of filtered search for `filtered_sweep`: the ways of `DenseGraph` one by one and as planned, and peers'.

Each builds its index when it is made. One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.filtered_bench import FilteredBench
from inlay.evaluation.filtered_sweep import Method

if TYPE_CHECKING:
    from inlay.indexes.dense_graph import DenseGraph

__all__ = ["EFS", "RECALLS", "acorn", "faiss_graph", "faiss_lists", "of_graph", "planned", "pre_filter"]

EFS = (10, 12, 16, 24, 32, 48, 64, 96, 128)
RECALLS = (0.8, 0.85, 0.9, 0.95, 0.99)
EFFORTS = (2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
WORST = 0.001  # share of allowed rows below which a walk through would visit nearly every row


def graph(bench: FilteredBench, *, connectivity: int = 16, expansion_add: int = 128, seed: int = 0) -> DenseGraph:
    """A `DenseGraph` of the bench's vectors."""
    from inlay.indexes.dense_graph import DenseGraph

    index = DenseGraph(
        bench.vectors.shape[1], metric=bench.metric, connectivity=connectivity, expansion_add=expansion_add, seed=seed
    )  # fmt: skip
    index.add(bench.vectors)
    return index


def of_graph(index: DenseGraph, route: Any, settings: Sequence[int] = EFS) -> Method:
    """One way of a graph: `scan`, `lists`, `through`, `two-hop` or `post`."""

    def search(query: np.ndarray, allow: np.ndarray, k: int, ef: int) -> np.ndarray:
        return index.search(query, k, allow=allow, ef=ef, route=route).ids[0]

    if route == "lists" and settings == EFS:
        settings = EFFORTS
    names = {
        "lists": "graph, lists",
        "scan": "scan",
        "through": "graph, through",
        "two-hop": "graph, two-hop",
        "post": "graph, post-filter",
    }
    costly = route in ("through", "post")
    return Method(
        names[route], search, (1,) if route == "scan" else tuple(settings),
        skip=(lambda share, ef: share <= WORST) if costly else None,
    )  # fmt: skip


def planned(index: DenseGraph, recalls: Sequence[float] = RECALLS) -> Method:
    """A graph whose ways are planned, as `calibrate_filters` measured them for these recalls."""

    def search(query: np.ndarray, allow: np.ndarray, k: int, recall: float) -> np.ndarray:
        return index.search(query, k, allow=allow, recall=recall).ids[0]

    return Method("planned", search, tuple(recalls))


def pre_filter(bench: FilteredBench) -> Method:
    """An exact scan of the allowed rows in float32 (`Flat`)."""
    from inlay.indexes.flat import Flat

    index = Flat(bench.vectors.shape[1], metric=bench.metric)
    index.add(bench.vectors)
    return Method("exact scan", lambda query, allow, k, _: index.search(query, k, allow=allow).ids[0], (1,))


def acorn(bench: FilteredBench, *, settings: Sequence[int] = EFS, **options: Any) -> Method:
    """`Acorn`, with options of its own."""
    from inlay.indexes.acorn import Acorn

    index = Acorn(bench.vectors.shape[1], metric=bench.metric, **options)
    index.add(bench.vectors)
    name = "ACORN-1" if index.settings["gamma"] == 1 else "ACORN-γ"
    return Method(name, lambda query, allow, k, ef: index.search(query, k, allow=allow, ef=ef).ids[0], tuple(settings))


def faiss_graph(
    bench: FilteredBench, *, connectivity: int = 16, expansion_add: int = 128, settings: Sequence[int] = EFS
) -> Method:
    """faiss' HNSW with a bitmap of the allowed rows."""
    faiss = _faiss()
    index = faiss.IndexHNSWFlat(bench.vectors.shape[1], connectivity, _metric(bench, faiss))
    index.hnsw.efConstruction = expansion_add
    index.add(bench.vectors)

    def search(query: np.ndarray, given: Any, k: int, ef: int) -> np.ndarray:
        return index.search(query, k, params=faiss.SearchParametersHNSW(sel=given[1], efSearch=ef))[1][0]

    return Method("faiss HNSW", search, (*settings, 256, 512, 1024), prepare=_bitmap(faiss))


def faiss_lists(bench: FilteredBench, *, settings: Sequence[int] = PROBES) -> Method:
    """faiss' IVF-Flat with a bitmap of the allowed rows."""
    faiss = _faiss()
    lists, dim = max(1, round(2 * len(bench.vectors) ** 0.5)), bench.vectors.shape[1]
    quantizer = faiss.IndexFlatL2(dim) if bench.metric == "l2" else faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFFlat(quantizer, dim, lists, _metric(bench, faiss))
    index.train(bench.vectors[:: max(1, len(bench.vectors) // (64 * lists))])
    index.add(bench.vectors)

    def search(query: np.ndarray, given: Any, k: int, probes: int) -> np.ndarray:
        return index.search(query, k, params=faiss.SearchParametersIVF(sel=given[1], nprobe=min(probes, lists)))[1][0]

    return Method("faiss IVF", search, tuple(settings), prepare=_bitmap(faiss))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise MissingExtra("comparisons with faiss", "bench") from None
    faiss.omp_set_num_threads(1)
    return faiss


def _metric(bench: FilteredBench, faiss: Any) -> int:
    if bench.metric not in ("cosine", "l2"):
        raise BadInput(f"faiss is compared by cosine or l2, not by {bench.metric}")
    return int(faiss.METRIC_L2 if bench.metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def _bitmap(faiss: Any) -> Any:
    def prepare(mask: np.ndarray, _: Any) -> Any:
        bits = np.packbits(mask, bitorder="little")
        return bits, faiss.IDSelectorBitmap(bits)  # the selector keeps no copy

    return prepare
