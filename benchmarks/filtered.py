"""Filtered search against faiss and lancedb, at equal recall, for filters of four selectivities that go with the query
or against it.

Rows are texts by the encoder in the box (`data.embedded`); they are put in clusters by k-means, about as large as each
share of the rows that is asked for. A filter lets one cluster pass. *With* the query is a query under the filter of
its own cluster, *against* it one under the filter of another. Truth is an exact scan of what passes. Each side is set,
on one half of the queries, to the least effort that reaches the recall, and timed on the other half, a query a call.
Ours is the planner, calibrated before on other queries and drawn filters; faiss has a bitmap of each filter, made
before; lancedb filters by a column with a scalar index. usearch's Python package takes no filter.

Beside stands the best of our own ways, each set likewise: what a planner that always guesses right would do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import data
from benchmarks.harness import Contender, Quality, Row, compare

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Filtered search"
PACKAGES = ("inlay", "faiss-cpu", "lancedb", "usearch", "numpy", "numba")
ROWS, K, M, EF = 100_000, 10, 16, 128
SHARES = (0.001, 0.01, 0.1, 0.5)
TARGET = 0.9
RECALL = Quality("recall@10", 0.03, at_least=True)
ASKED = 160  # queries of each share and side, half to set and half to time
RECALLS = (0.8, 0.85, 0.9, 0.92, 0.94, 0.96, 0.98, 0.99)
EFS = (1, 2, 4, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048)


class Filtered(NamedTuple):
    """A query under a filter, and what is right."""

    query: np.ndarray  # float32 [1, dim]
    mask: np.ndarray  # bool [n]
    name: str
    label: int
    truth: np.ndarray


class Engine(NamedTuple):
    """How an index is asked.

    Args:
        name: of it.
        prepare: a task → what its filter is given as.
        search: (query, filter, setting) → ids.
        settings: ascending.
    """

    name: str
    prepare: Callable[[Filtered], Any]
    search: Callable[[np.ndarray, Any, Any], np.ndarray]
    settings: Sequence[Any]


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows for each share, side and peer."""
    rows, queries = data.embedded(5_000, 400) if quick else data.embedded(200_000, 2000)
    rows, queries = np.ascontiguousarray(rows[:ROWS]), np.ascontiguousarray(queries)
    labels, ours = _labels(rows, queries), _graph(rows, queries[:100])
    peers = []
    for build in (_faiss_graph, _faiss_lists, _lancedb):
        try:
            peers.append(build(rows, {name: own for name, (own, _) in labels.items()}))
        except ImportError as missing:
            yield Row(f"{len(rows):,} rows", str(missing), refused="it is not installed")
    yield Row(f"{len(rows):,} rows", "usearch", refused="its Python package takes no filter")
    ways = [_way(ours, route) for route in ("scan", "lists", "through", "two-hop", "post")]
    planned = Engine(
        "inlay", lambda one: one.mask,
        lambda query, mask, recall: ours.search(query, K, allow=mask, recall=recall).ids[0], RECALLS,
    )  # fmt: skip
    for share in SHARES:
        for side in ("with", "against"):
            tasks = _tasks(rows, queries[100:], labels, share, side)
            half, passing = len(tasks) // 2, float(np.mean([one.mask.mean() for one in tasks]))
            task = f"{len(rows):,} × {rows.shape[1]}, {passing:.2%} pass, {side} the query"
            mine = _setting(planned, tasks[:half])
            for peer in (*peers, *ways):
                theirs = _setting(peer, tasks[:half])
                if theirs is None or mine is None:
                    yield Row(
                        task, peer.name, refused=f"{'inlay' if mine is None else peer.name} does not reach {TARGET}"
                    )
                    continue
                yield compare(
                    task, _side(planned, mine, tasks[half:]), _side(peer, theirs, tasks[half:]),
                    quality=RECALL, per=1, unit="ms/query", budget=1.0 if quick else 4.0,
                    notes={"setting": {"inlay": mine, peer.name: theirs}},
                )  # fmt: skip


def _labels(rows: np.ndarray, queries: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each share, the cluster of every row and of every query."""
    from inlay.codecs.kmeans import assign, kmeans

    made = {}
    for share in SHARES:
        count = round(1 / share)
        some = np.random.default_rng(0).permutation(len(rows))[: max(40 * count, 2000)]
        centres = kmeans(rows[some], count, iterations=8, seed=0)
        made[f"c{count}"] = assign(rows, centres), assign(queries, centres)
    return made


def _tasks(rows: np.ndarray, queries: np.ndarray, labels: Any, share: float, side: str) -> list[Filtered]:
    from inlay.kernels.dense import nearest

    name, random = f"c{round(1 / share)}", np.random.default_rng(1)
    own, of = labels[name][0], labels[name][1][-len(queries) :]
    sizes = np.bincount(own, minlength=round(1 / share)) / len(rows)
    fit = np.flatnonzero((sizes > share / 2) & (sizes < 2 * share))
    tasks: list[Filtered] = []
    for query in random.permutation(len(queries)):
        label = int(of[query])
        if side == "against":
            label = int(random.choice(fit[fit != label])) if (fit != label).any() else -1
        if label in fit and len(tasks) < ASKED:
            mask = own == label
            truth = nearest(queries[query : query + 1], rows, K, allow=mask).ids[0]
            tasks.append(Filtered(queries[query : query + 1], mask, name, label, truth))
    return tasks


def _graph(rows: np.ndarray, calibrating: np.ndarray) -> Any:
    from inlay.indexes.dense_graph import DenseGraph

    index = DenseGraph(rows.shape[1], connectivity=M, expansion_add=EF)
    index.add(rows)
    index.calibrate_filters(calibrating, K, recalls=RECALLS)
    return index


def _way(index: Any, route: str) -> Engine:
    return Engine(
        f"inlay, {route} alone", lambda one: one.mask,
        lambda query, mask, ef: index.search(query, K, allow=mask, ef=ef, route=route).ids[0],
        (1,) if route == "scan" else EFS[:14],
    )  # fmt: skip


def _bitmap(faiss: Any) -> Callable[[Filtered], Any]:
    def prepare(one: Filtered) -> Any:
        bits = np.packbits(one.mask, bitorder="little")
        return bits, faiss.IDSelectorBitmap(bits)  # the selector keeps no copy

    return prepare


def _faiss_graph(rows: np.ndarray, _: Any) -> Engine:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexHNSWFlat(rows.shape[1], M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF
    index.add(rows)

    def search(query: np.ndarray, given: Any, ef: int) -> np.ndarray:
        return index.search(query, K, params=faiss.SearchParametersHNSW(sel=given[1], efSearch=max(ef, K)))[1][0]

    return Engine("faiss HNSW with a bitmap", _bitmap(faiss), search, EFS)


def _faiss_lists(rows: np.ndarray, _: Any) -> Engine:
    import faiss

    faiss.omp_set_num_threads(1)
    lists, dim = round(2 * len(rows) ** 0.5), rows.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(rows[:: max(1, len(rows) // (64 * lists))])
    index.add(rows)

    def search(query: np.ndarray, given: Any, probes: int) -> np.ndarray:
        return index.search(query, K, params=faiss.SearchParametersIVF(sel=given[1], nprobe=probes))[1][0]

    return Engine("faiss IVF with a bitmap", _bitmap(faiss), search, [n for n in EFS if n < lists] + [lists])


def _lancedb(rows: np.ndarray, labels: dict[str, np.ndarray]) -> Engine:
    import lancedb
    import pyarrow as pa

    folder = tempfile.TemporaryDirectory()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    columns = {"vector": vectors, "id": pa.array(np.arange(len(rows)))}
    columns |= {name: pa.array(own) for name, own in labels.items()}
    table = lancedb.connect(folder.name).create_table("rows", pa.table(columns))
    table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_HNSW_SQ", m=M, ef_construction=EF)
    for name in labels:
        table.create_scalar_index(name)
    keep = folder  # as long as the engine is asked

    def search(query: np.ndarray, where: str, setting: int) -> np.ndarray:
        found = table.search(query[0], vector_column_name="vector").where(where, prefilter=True)
        found = found.select(["id", "_distance"]).limit(K).nprobes(setting).refine_factor(3)
        return found.to_arrow()["id"].to_numpy()

    return Engine("lancedb", lambda one: f"{one.name} = {one.label}" if keep else "", search, (1, 2, 4, 8, 16, 32))


def _setting(engine: Engine, tasks: Sequence[Filtered]) -> Any:
    """The least setting that reaches the recall, None where none does."""
    given = [engine.prepare(one) for one in tasks]
    for setting in engine.settings:
        if _recall(engine, setting, tasks, given) >= TARGET:
            return setting
    return None


def _side(engine: Engine, setting: Any, tasks: Sequence[Filtered]) -> Contender:
    given, turn = [engine.prepare(one) for one in tasks], iter(range(1 << 60))

    def run() -> Any:
        at = next(turn) % len(tasks)
        return engine.search(tasks[at].query, given[at], setting)

    return Contender(engine.name, run, lambda: _recall(engine, setting, tasks, given))


def _recall(engine: Engine, setting: Any, tasks: Sequence[Filtered], given: Sequence[Any]) -> float:
    hits = 0.0
    for one, own in zip(tasks, given):
        right = one.truth[one.truth >= 0]
        hits += len(np.intersect1d(engine.search(one.query, own, setting), right)) / max(1, len(right))
    return hits / max(1, len(tasks))
