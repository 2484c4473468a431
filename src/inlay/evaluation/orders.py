"""What the order of insertion does to a graph on given rows: built again and again, by several engines, and measured.

Each graph is built with one thread in the order given, with other levels for each seed, and asked for the k nearest
rows; recall is the share of those that are as near as the k nearest by an exact scan (rows as near as the k-th count,
whichever of equals they are). ef far above k hides every difference, so it is measured at small ef.

Source: Elliott and Clark, The Impacts of Data, Ordering, and Intrinsic Dimensionality on Recall in HNSW
(arXiv 2405.17813, ICTIR 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.graph_engines import BACKENDS, Graph, build
from inlay.evaluation.measures import Estimate
from inlay.indexes.flat import checked_k, checked_rows
from inlay.indexes.orders import insertion_order
from inlay.kernels.dense import nearest, normalise
from inlay.types import Metric

__all__ = ["OrderEffect", "order_effect"]

TIED = 1e-5  # scores closer than this, in units of the largest, are equal: engines round in other places
SOURCES = 32  # rows that walks of the lowest layer begin at


@dataclass(frozen=True)
class OrderEffect:
    """Recall by engine, order, seed and ef.

    Args:
        rows: how many were inserted.
        k: neighbours asked for.
        efs: candidates kept during a search.
        seeds: of the levels, one a graph.
        recall: engine → order → float64 [seeds, efs].
        judged: the same of what `judge` says; empty without it.
        path: engine → order → mean number of links on the shortest way between two rows of the lowest layer,
            float64 [seeds]; empty where it was not asked for, and without engines that hide their links.
    """

    rows: int
    k: int
    efs: tuple[int, ...]
    seeds: tuple[int, ...]
    recall: dict[str, dict[str, np.ndarray]]
    judged: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    path: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def mean(self, backend: str, order: str, ef: int) -> float:
        """Recall, averaged over seeds."""
        return float(self._at(backend, order, ef).mean())

    def spread(self, backend: str, order: str, ef: int) -> float:
        """Standard deviation of recall over seeds; 0 for one."""
        values = self._at(backend, order, ef)
        return float(values.std(ddof=1)) if len(values) > 1 else 0.0

    def difference(self, backend: str, ef: int, order: str = "lid-desc", than: str = "lid-asc") -> Estimate:
        """Recall in one order minus that in another, with the 95% interval over seeds (Student's t).

        One seed has no interval: then it is from −∞ to ∞.
        """
        return seed_interval(self._at(backend, order, ef) - self._at(backend, than, ef))

    def _at(self, backend: str, order: str, ef: int) -> np.ndarray:
        try:
            values: np.ndarray = self.recall[backend][order][:, self.efs.index(ef)]
        except (KeyError, ValueError):
            known = next(iter(self.recall.values()))
            raise BadInput(
                f"nothing was measured for engine {backend!r}, order {order!r}, ef={ef!r}; there are engines "
                f"{', '.join(self.recall)}, orders {', '.join(known)}, ef {', '.join(map(str, self.efs))}"
            ) from None
        return values

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: mean over seeds of each ef, and every seed's."""
        return {
            "rows": self.rows,
            "k": self.k,
            "ef": list(self.efs),
            "seeds": list(self.seeds),
            "recall": _plain(self.recall),
            **({"judged": _plain(self.judged)} if self.judged else {}),
            **({"path": _plain(self.path)} if self.path else {}),
        }


def order_effect(
    X: np.ndarray,
    queries: np.ndarray,
    orders: Sequence[str] = ("lid-desc", "lid-asc", "random"),
    seeds: int | Sequence[int] = 5,
    backends: Sequence[str] = ("faiss", "hnswlib", "usearch"),
    *,
    k: int = 10,
    efs: Sequence[int] = (10, 40),
    metric: Metric = "cosine",
    connectivity: int = 16,
    expansion_add: int = 128,
    more: Mapping[str, Callable[[int], np.ndarray]] | None = None,
    judge: Callable[[np.ndarray], float] | None = None,
    paths: bool = False,
    progress: bool = False,
) -> OrderEffect:
    """Build a graph for each engine, order and seed, and measure what it finds.

    Args:
        X: rows [n, dim].
        queries: [q, dim], which are not among the rows.
        orders: names that `insertion_order` knows.
        seeds: how many graphs of each kind, or their seeds: each has other levels, and `random` is another order too.
        backends: `faiss`, `hnswlib` (extra `bench`), `usearch` (extra `hnsw`), and `faiss-at-once`, which shuffles.
        k: neighbours asked for.
        efs: candidates kept during a search.
        metric: as in `Flat`.
        connectivity: links of a row (M in the paper).
        expansion_add: candidates considered for links (efConstruction).
        more: further orders, name → function of the seed that gives the numbers of all rows in that order.
        judge: a figure of found row numbers [queries, k], such as nDCG, kept in `judged`.
        paths: whether to walk the lowest layer, where an engine shows it (extra `sparse`).
        progress: show a bar.
    """
    rows = _checked(X, None, "row")
    queries = _checked(queries, rows.shape[1], "query")
    k = checked_k(k)
    if k > len(rows) or not len(queries):
        raise BadInput(f"{k} neighbours of {len(queries)} queries among {len(rows)} rows: give more of them")
    efs = tuple(efs)
    if not efs or any(not isinstance(ef, int | np.integer) or ef < 1 for ef in efs):
        raise BadInput(f"efs must be positive integers, got {efs}")
    numbers = _checked_seeds(seeds)
    for backend in backends:
        if backend not in BACKENDS:
            raise BadInput(f"there is no graph engine {backend!r}; known are {', '.join(BACKENDS)}")
    if metric == "cosine":
        rows, queries = normalise(rows), normalise(queries)
    asked: dict[str, Callable[[int], np.ndarray]] = {name: _named(rows, name, metric) for name in orders}
    asked |= dict(more or {})
    if not asked or not backends:
        raise BadInput("name an order and an engine at least")
    best = nearest(queries, rows, k, metric="l2" if metric == "l2" else "dot")
    recall: dict[str, dict[str, np.ndarray]] = {}
    judged: dict[str, dict[str, np.ndarray]] = {}
    path: dict[str, dict[str, np.ndarray]] = {}
    with _bar(len(backends) * len(asked) * len(numbers), progress) as bar:
        for name, of in asked.items():
            for number, seed in enumerate(numbers):
                order = _checked_order(of(seed), len(rows), name)
                for backend in backends:
                    graph = build(
                        backend, rows[order], dot=metric != "l2", seed=seed,
                        connectivity=connectivity, expansion_add=expansion_add,
                    )  # fmt: skip
                    for column, ef in enumerate(efs):
                        places = graph.search(queries, k, ef)
                        ids = np.where(places >= 0, order[places], -1)
                        _put(recall, backend, name, (len(numbers), len(efs)))[number, column] = found_share(
                            ids, queries, rows, best.scores, metric
                        )
                        if judge is not None:
                            _put(judged, backend, name, (len(numbers), len(efs)))[number, column] = judge(ids)
                    if paths and (length := _path(graph)) is not None:
                        _put(path, backend, name, (len(numbers),))[number] = length
                    bar.update()
    ordered = {backend: recall[backend] for backend in backends}
    return OrderEffect(len(rows), k, efs, numbers, ordered, judged, path)


def found_share(
    ids: np.ndarray, queries: np.ndarray, rows: np.ndarray, best: np.ndarray, metric: Metric = "cosine"
) -> float:
    """Share of found rows [q, k] that are as near as the k best, whose scores are given [q, k]; -1 was not found."""
    there = ids >= 0
    found = rows[np.where(there, ids, 0)]
    if metric == "l2":
        scores = -np.square(found - queries[:, None]).sum(axis=2)
    else:
        scores = np.einsum("qkd,qd->qk", found, queries)
    cut = best[:, -1:]
    near = scores >= cut - TIED * np.maximum(np.abs(best).max(axis=1, keepdims=True), 1e-30)
    return float((near & there).mean())


def seed_interval(values: np.ndarray) -> Estimate:
    """Mean over seeds [n], with its 95% interval by Student's t; one seed has none."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Estimate(mean, -np.inf, np.inf)
    half = _T[min(count - 2, len(_T) - 1)] * float(np.std(values, ddof=1)) / count**0.5
    return Estimate(mean, mean - half, mean + half)


# 97.5% points of Student's t for 1, 2, … degrees of freedom, so that an interval needs no scipy.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def _named(rows: np.ndarray, name: str, metric: Metric) -> Callable[[int], np.ndarray]:
    if name == "random":
        return lambda seed: insertion_order(rows, "random", seed)
    fixed = insertion_order(rows, name, metric=metric)  # type: ignore[arg-type]
    return lambda seed: fixed


def _checked(rows: Any, dim: int | None, what: str) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.ndim != 2 or not rows.shape[1]:
        raise BadInput(f"expected {what} vectors [n, dim], got an array of shape {list(rows.shape)}")
    return checked_rows(rows, rows.shape[1] if dim is None else dim, what=what)


def _checked_seeds(seeds: Any) -> tuple[int, ...]:
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool) and seeds > 0:
        return tuple(range(int(seeds)))
    numbers = tuple(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else ()
    if not numbers or any(not isinstance(n, int | np.integer) or n < 0 for n in numbers):
        raise BadInput(f"seeds must be a positive number of graphs, or seeds that are not negative, got {seeds!r}")
    return tuple(int(number) for number in numbers)


def _checked_order(order: Any, count: int, name: str) -> np.ndarray:
    order = np.asarray(order)
    if order.shape != (count,) or order.dtype.kind not in "iu" or not np.array_equal(np.sort(order), np.arange(count)):
        raise BadInput(f"order {name!r} must name each of {count} rows once, got {order.dtype} {list(order.shape)}")
    return order.astype(np.int64)


def _put(table: dict[str, dict[str, np.ndarray]], backend: str, order: str, shape: tuple[int, ...]) -> np.ndarray:
    return table.setdefault(backend, {}).setdefault(order, np.zeros(shape))


def _path(graph: Graph) -> float | None:
    """Mean number of links on the shortest ways from some rows to all that they reach, in the lowest layer."""
    links = graph.base_layer()
    if links is None:
        return None
    offsets, to = links
    count = len(offsets) - 1
    total = reached = 0
    for source in np.linspace(0, count - 1, min(SOURCES, count), dtype=np.int64):
        seen = np.zeros(count, dtype=bool)
        seen[source] = True
        edge, steps = np.array([source]), 0
        while len(edge):
            steps += 1
            lengths = offsets[edge + 1] - offsets[edge]
            at = np.repeat(offsets[edge] - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
            edge = np.unique(to[at])
            edge = edge[~seen[edge]]
            seen[edge] = True
            total, reached = total + steps * len(edge), reached + len(edge)
    return total / max(reached, 1)


def _bar(total: int, progress: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="graph", desc="graphs", disable=not progress, leave=False)


def _plain(table: dict[str, dict[str, np.ndarray]]) -> dict[str, dict[str, Any]]:
    return {
        backend: {order: np.round(values, 5).tolist() for order, values in by_order.items()}
        for backend, by_order in table.items()
    }
