"""Approximate nearness of dense rows, by a graph that is walked towards the query in int8 and finished in full.

The graph is that of Malkov & Yashunin 2018, "Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs" (arXiv 1603.09320). A walk waits for memory, a row at a time; so it compares
codes of a byte a number, and only the best it found, a few times k, are scored again by the rows as they are kept. The
rows themselves may lie in a memory-mapped file.

Rows that are equal share one place in the graph, where they would else hide each other.

With `allow`, rows are scored one by one, or walked to: past what is not allowed to what that links to, as ACORN does
(Patel et al. 2024, arXiv 2403.04871), or through it. Which way is taken is planned for each query from what the ways
cost (`filter_plan`); `explain` tells.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from inlay import sealed
from inlay.codecs.scalar import Float16, Float32
from inlay.errors import BadInput, Corrupt
from inlay.indexes.card import Card, found_setting
from inlay.indexes.filter_plan import SHARES, FilterCosts, FilterPlan, Route, checked_route
from inlay.indexes.filtered_lists import Lists
from inlay.indexes.filtered_walks import Answer, Choices, checked_recalls, checked_shares, filtered, measured_costs
from inlay.indexes.flat import checked_k, checked_mask, checked_rows
from inlay.indexes.post_filter import MARGIN
from inlay.kernels import dense_graph as kernel
from inlay.kernels.dense import nearest, normalise
from inlay.kernels.dense_graph import NONE, Graph, Room
from inlay.kernels.mixing import mixed
from inlay.types import Metric, Neighbours

__all__ = ["DenseGraph"]

ROWS_AT_ONCE = 1024  # inserted between two chances to interrupt
KEPT: dict[str, Any] = {"float32": Float32(), "float16": Float16()}
Dtype = Literal["float32", "float16", "int8"]
THROUGH, TWO_HOP, SPARSE = 0.5, 0.75, 0.05  # how ef changes with the share of allowed rows, as measured on texts
EFFORT = 100  # of lists, for each candidate that a walk would keep
FILTERS = "filters"  # what the card calls the costs of filtered searches


class DenseGraph:
    """Rows in a graph: a search scores some hundreds of them, whatever their number (extra `fast`).

    The graph is the same whether rows come at once or one by one. Searches may run side by side, but not beside an
    `add`.

    Args:
        dim: width of a row.
        metric: as in `Flat`. The graph is built for distances, so `dot` is only as good as rows are of similar length.
        dtype: how rows are kept to be scored in the end: `float32`, `float16`, or `int8` for the walk's codes only.
        connectivity: links of a row on each level above the lowest, M in the paper; on the lowest twice as many.
        expansion_add: candidates from which a row's links are chosen (efConstruction).
        expansion_search: candidates kept during a search (ef): more is slower and finds more.
        refine: rows scored in full, for each of the k that are wanted.
        keep_pruned: give links that are free to the nearest candidates that were passed over (keepPrunedConnections).
        seed: of the draw of levels.
    """

    kind = "dense graph"

    def __init__(
        self,
        dim: int,
        *,
        metric: Metric = "cosine",
        dtype: Dtype = "float32",
        connectivity: int = 16,
        expansion_add: int = 128,
        expansion_search: int = 64,
        refine: int = 3,
        keep_pruned: bool = False,
        seed: int = 0,
    ) -> None:
        kernel.kernels()
        if metric not in get_args(Metric):
            raise BadInput(f"metric must be one of {', '.join(get_args(Metric))}, got {metric!r}")
        if dtype not in get_args(Dtype):
            raise BadInput(f"dtype must be one of {', '.join(get_args(Dtype))}, got {dtype!r}")
        if not isinstance(keep_pruned, bool | np.bool_):
            raise BadInput(f"keep_pruned must be True or False, got {keep_pruned!r}")
        counts = {
            "dim": dim, "connectivity": connectivity, "expansion_add": expansion_add,
            "expansion_search": expansion_search, "refine": refine, "seed": seed,
        }  # fmt: skip
        least = {"connectivity": 2, "seed": 0}
        for name, value in counts.items():
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least.get(name, 1):
                raise BadInput(f"{name} must be a whole number from {least.get(name, 1)} on, got {value!r}")
        self.settings: dict[str, Any] = {
            **{name: int(value) for name, value in counts.items()},
            "metric": metric, "dtype": dtype, "keep_pruned": bool(keep_pruned),
        }  # fmt: skip
        self.dim, self.metric, self.dtype = int(dim), metric, dtype
        self.card = Card()
        width = kernel.width_of(self.dim)
        self._graph = self._empty(width, 2 * int(connectivity), int(connectivity))
        self._rows = np.empty((0, 0 if dtype == "int8" else self.dim), dtype="float32" if dtype == "int8" else dtype)
        self._count = 0
        self._higher = 0  # rows of `higher` in use
        self._spare: list[Room] = []
        self.lists: Lists | None = None
        self._costs: dict[tuple[int, float | None], FilterCosts] = {}
        self._choices: dict[Any, Choices] = {}
        self._lock = threading.Lock()

    @staticmethod
    def _empty(width: int, most: int, connectivity: int) -> Graph:
        codes = kernel.aligned(0, width)
        return Graph(
            codes=codes, facts=codes.view(np.float32), levels=np.empty(0, np.uint8),
            links=np.empty((0, most), np.uint32), above=np.empty(0, np.uint32),
            higher=np.empty((0, connectivity), np.uint32), twins=np.empty(0, np.uint32),
            entry=np.full(1, -1, np.int64),
        )  # fmt: skip

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value!r}" for name, value in self.settings.items() if name != "dim")
        return f"{type(self).__name__}({self.dim}, {said}) of {len(self)} rows"

    @property
    def nbytes(self) -> int:
        """Bytes of rows, codes and links, without the room that is kept for rows to come."""
        return sum(self.nbytes_of_parts.values())

    @property
    def nbytes_of_parts(self) -> dict[str, int]:
        """Bytes of `rows`, `codes`, `graph` and `lists`."""
        arrays = self._trimmed()
        rows, codes = arrays.pop("rows").nbytes, arrays.pop("codes").nbytes
        lists = 0 if self.lists is None else self.lists.nbytes
        return {"rows": rows, "codes": codes, "graph": sum(one.nbytes for one in arrays.values()), "lists": lists}

    def add(self, vectors: np.ndarray, *, order: np.ndarray | None = None, progress: bool = False) -> None:
        """Append rows [n, dim]; ids are positions in order of addition. An interrupt adds none of them.

        Args:
            vectors: the rows.
            order: int64 [n], a permutation: the order in which they are inserted into the graph. What comes first
                shapes it (see `inlay.evaluation.index_difficulty`).
            progress: show a bar.
        """
        from tqdm import tqdm

        vectors = self._ready(vectors, "row")
        if self._count + len(vectors) >= NONE:
            raise BadInput(f"an index holds {NONE - 1} rows, and {self._count} + {len(vectors)} are more; use several")
        order = np.arange(len(vectors)) if order is None else np.asarray(order)
        if not np.array_equal(np.sort(order), np.arange(len(vectors))):
            raise BadInput(f"order must name each of the {len(vectors)} rows once")
        kept = KEPT[self.dtype].encode(vectors) if self.dtype != "int8" else vectors[:, :0]
        with self._lock:
            began = time.perf_counter()
            self._spare = []
            self._append(vectors, kept)
            room, stop = Room.of(self._graph), self._count + len(vectors)
            places = (self._count + order).astype(np.int64)
            budgets = np.full(len(places), self.settings["connectivity"], np.int64)
            with tqdm(total=len(places), unit=" rows", desc="linking", disable=not progress, leave=False) as bar:
                for first in range(0, len(places), ROWS_AT_ONCE):
                    part = slice(first, first + ROWS_AT_ONCE)
                    self._insert(places[part], budgets[part], room)
                    bar.update(len(places[part]))
            self._count = stop
            self._higher = int(self._graph.above[stop - 1]) + int(self._graph.levels[stop - 1]) if stop else 0
            self.card.built(len(vectors), time.perf_counter() - began)
            self.card.facts.pop(FILTERS, None)
            self.lists, self._costs, self._choices = None, {}, {}

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: np.ndarray | None = None,
        ef: int | None = None,
        recall: float | None = None,
        route: Route | None = None,
    ) -> Neighbours:
        """About the k nearest rows of each query; of equal scores the lower id comes first.

        Args:
            queries: [q, dim], or [dim] for one.
            k: how many; where fewer rows are found, the rest is id -1 with score -inf.
            allow: bool [n], the rows that may be returned. As long as there are k, k are found.
            ef: candidates to keep in place of `expansion_search`; at least k are. For lists, a hundred rows each.
            recall: find this share of the true k; which `ef` that takes is looked up in what `calibrate` measured, with
                `allow` in what `calibrate_filters` did.
            route: the way among allowed rows (`scan`, `lists`, `two-hop`, `through` or `post`) in place of the planned
                one.
        """
        return self._found(queries, k, allow, ef, recall, route).neighbours

    def explain(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: np.ndarray,
        ef: int | None = None,
        recall: float | None = None,
        route: Route | None = None,
    ) -> tuple[Neighbours, list[FilterPlan]]:
        """What `search` with the same arguments finds, and for each query the way that was taken, and why."""
        if allow is None:
            raise BadInput("explain tells how rows were filtered; give allow, a bool for each row")
        answer = self._found(queries, k, allow, ef, recall, route, told=True)
        return answer.neighbours, answer.plans

    def scored(
        self,
        queries: np.ndarray,
        k: int,
        *,
        allow: np.ndarray | None = None,
        ef: int | None = None,
        route: Route | None = None,
    ) -> float:
        """How many rows `search` with the same arguments scores, a query on average."""
        answer = self._found(queries, k, allow, ef, None, route)
        return answer.scored / max(1, len(answer.neighbours.ids))

    def calibrate(
        self, queries: np.ndarray, k: int = 10, *, recalls: tuple[float, ...] = (0.9, 0.95, 0.99)
    ) -> dict[float, int | None]:
        """Measure which `ef` reaches each recall on these queries, for `search(recall=…)`; None where none does.

        Truth is an exact scan of the rows as they are kept (in int8, of the codes).
        """
        queries, k = self._ready(queries, "query"), checked_k(k)
        if not self._count or not len(queries):
            raise BadInput("calibrate needs rows in the index and queries to measure with")
        truth = self._scan(queries, k, np.arange(self._count)).ids

        def recall_at(ef: int) -> float:
            found = self._found(queries, k, None, ef).neighbours.ids
            hits = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(found, truth))
            return hits / max(1, int((truth >= 0).sum()))

        table = {target: found_setting(recall_at, target, k, max(k, min(self._count, 4096))) for target in recalls}
        self.card.recalls[k] = {target: ef for target, ef in table.items() if ef is not None}
        return table

    def calibrate_filters(
        self,
        queries: np.ndarray,
        k: int = 10,
        *,
        recalls: Sequence[float] = (0.9, 0.95, 0.99),
        shares: Sequence[float] = SHARES,
        seed: int = 0,
    ) -> list[FilterCosts]:
        """Measure what each way among allowed rows costs on this index and machine, so that the planner knows.

        Rows are put in lists before, if they are not yet, which makes another way (`filtered_lists`); 4 bytes a row.
        Every way is set to the least `ef` that reaches a recall, on filters that are drawn so that more rows of some
        lists pass than of others; and timed with it, by this thread's processor time.

        Args:
            queries: [q, dim]; some dozens.
            k: neighbours they ask for.
            recalls: to reach; `search(recall=…)` is then answered with the settings of the next above.
            shares: of rows that are allowed.
            seed: of the draw of these rows.

        Returns:
            Costs for each recall, in ascending order.
        """
        queries, k = self._ready(queries, "query"), checked_k(k)
        if len(self) <= k or not len(queries):
            raise BadInput(f"calibrate_filters needs more than {k} rows in the index and queries to measure with")
        self._listed()
        costs = measured_costs(self, queries, k, checked_recalls(recalls), checked_shares(shares), seed)
        others = [kept for kept in self.card.facts.get(FILTERS, []) if kept["k"] != k]
        self.card.facts[FILTERS] = others + [one.to_dict() for one in costs]
        self._costs, self._choices = {}, {}
        return costs

    def filter_costs(self, k: int = 10, recall: float | None = None) -> FilterCosts:
        """What the planner goes by: of what `calibrate_filters` measured, the costs of the recall asked for or the next
        above; where nothing fits, what is assumed for an index of this size.
        """
        costs = self._costs.get((k, recall))
        if costs is None:
            kept = [FilterCosts.from_dict(one) for one in self.card.facts.get(FILTERS, [])]
            fit = [one for one in kept if one.k == k and one.recall >= (recall or 0)] or (
                kept if recall is None else []
            )
            assumed = FilterCosts.assumed(self._count, self._graph.codes.shape[1])
            costs = self._costs[k, recall] = min(fit, key=lambda one: one.recall, default=assumed)
        return costs

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file."""
        facts = {"kind": self.kind, "settings": self.settings, "card": self.card.to_dict()}
        lists = {} if self.lists is None else self.lists.arrays()
        sealed.write(Path(path), {**self._trimmed(), **lists}, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote; rows may be added to it."""
        arrays, facts = sealed.read(Path(path), cls.kind)
        try:
            index = cls(**facts["settings"])
            rows = arrays.pop("rows")
            lists = {name: arrays.pop(name) for name in list(arrays) if name.startswith("list_")}
            codes = kernel.aligned(*arrays["codes"].shape)
            codes[:] = arrays.pop("codes")
            own = {name: np.array(array) for name, array in arrays.items()}  # as its own: it is written to
            graph = Graph(codes=codes, facts=codes.view(np.float32), **own)
            for name, fresh in index._graph._asdict().items():
                its = getattr(graph, name)
                if its.shape[1:] != fresh.shape[1:] or its.dtype != fresh.dtype:
                    raise ValueError(f"{name} is {its.dtype} {list(its.shape)}")
            if rows.shape[1:] != index._rows.shape[1:] or rows.dtype != index._rows.dtype:
                raise ValueError(f"rows are {rows.dtype} {list(rows.shape)}")
            if lists:
                index.lists = Lists.from_arrays(lists, len(rows), codes.shape[1])
            index.card = Card.from_dict(facts["card"])
            for kept in index.card.facts.get(FILTERS, []):
                FilterCosts.from_dict(kept)
        except (BadInput, KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold a {cls.kind} ({error}); build and save it again") from None
        index._graph, index._rows = graph, np.array(rows)
        index._count, index._higher = len(graph.levels), len(graph.higher)
        return index

    def _ef(self, ef: int | None, recall: float | None, k: int) -> int:
        if ef is not None and recall is not None:
            raise BadInput("give ef or recall, not both")
        if recall is not None:
            return self.card.setting(recall, checked_k(k), "ef")
        ef = self.settings["expansion_search"] if ef is None else ef
        if not isinstance(ef, int | np.integer) or isinstance(ef, bool) or ef < 1:
            raise BadInput(f"ef must be a positive integer, got {ef!r}")
        return int(ef)

    def _efs(self, ef: int | None, recall: float | None, k: int) -> Callable[[float], dict[str, int]]:
        """Candidates that each way keeps, by share of allowed rows."""
        if recall is not None and ef is None:
            costs = self.filter_costs(k, recall)
            if costs.recall:
                return lambda share: {way: max(k, costs.setting(way, share) or k) for way in costs.walks}
        base, given = self._ef(ef, recall, k), ef is not None

        def assumed(share: float) -> dict[str, int]:
            wide = min(self._count, math.ceil(MARGIN * k / max(share, 1 / self._count)))
            through = two_hop = base
            if not given:
                # For the same recall, a walk through keeps fewer allowed rows, since it has seen 1/share as many; and
                # one of two hops more where hardly any two allowed rows are that near.
                through = math.ceil(base * share**THROUGH)
                two_hop = math.ceil(base * max(1.0, (SPARSE / share) ** TWO_HOP))
            efs = {"through": max(k, through), "two-hop": max(k, two_hop), "post": max(base, wide)}
            return efs if self.lists is None else {"lists": base * EFFORT, **efs}

        return assumed

    def _found(
        self,
        queries: np.ndarray,
        k: int,
        allow: Any,
        ef: int | None,
        recall: float | None = None,
        route: Route | None = None,
        told: bool = False,
    ) -> Answer:
        queries, k = self._ready(queries, "query"), checked_k(k)
        allow, route = checked_mask(allow, self._count), checked_route(route)
        if allow is None:
            if route is not None:
                raise BadInput(f"route={route!r} is a way among allowed rows; give allow, a bool for each row")
            return Answer(*self._walked(queries, k, None, self._ef(ef, recall, k), "all"), [])
        if route == "lists" and self._count:
            self._listed()
        costs = self.filter_costs(k, recall if ef is None else None)
        return filtered(self, queries, k, allow, costs, self._efs(ef, recall, k), route, (k, ef, recall), told)

    def _insert(self, rows: np.ndarray, budgets: np.ndarray, room: Room) -> None:
        kernel.insert(
            self._graph, rows, expansion=self.settings["expansion_add"], budgets=budgets,
            fill=self.settings["keep_pruned"], room=room,
        )  # fmt: skip

    def _walked(
        self,
        queries: np.ndarray,
        k: int,
        allow: np.ndarray | None,
        ef: int,
        how: str,
        *,
        limit: int | None = None,
        refined: bool = True,
    ) -> tuple[Neighbours, int]:
        """What a walk finds, and how many rows it scored."""
        expansion = max(1, min(max(ef, k), self._count))
        (best, sizes), (asked, steps) = self._best(len(queries), k, expansion, refined), self._coded(queries)
        room = self._room()
        scored = self._walk(asked, steps, expansion, allow, how, limit, room, best, sizes)
        self._spare.append(room)
        return self._finished(queries, k, best, sizes, refined), scored

    def _walk(
        self, asked: np.ndarray, steps: np.ndarray, expansion: int, allow: np.ndarray | None, how: str,
        limit: int | None, room: Room, best: np.ndarray, sizes: np.ndarray,
    ) -> int:  # fmt: skip
        return kernel.walk(
            self._graph, asked, steps, expansion=expansion, allowed=allow, how=how, limit=limit, room=room, best=best,
            sizes=sizes,
        )  # fmt: skip

    def _probed(self, queries: np.ndarray, k: int, allow: np.ndarray, effort: int) -> tuple[Neighbours, int]:
        """What the lists nearest to each query hold, and how many rows were scored."""
        (best, sizes), (asked, steps) = self._best(len(queries), k, self._count), self._coded(queries)
        lists = self._listed()
        scored = lists.probe(self._graph, asked, steps, np.ascontiguousarray(allow), effort, best, sizes)
        return self._finished(queries, k, best, sizes), scored

    def _listed(self) -> Lists:
        """The rows in lists, which are made if they are not there."""
        with self._lock:
            if self.lists is None:
                seed = self.settings["seed"]
                self.lists = Lists.of(self._graph, self._count, self.dim, metric=self.metric, seed=seed)
                self._choices = {}  # which were made without
            return self.lists

    def _scanned(self, queries: np.ndarray, k: int, rows: np.ndarray) -> Neighbours:
        """The nearest of some rows: all of them by their codes, and the best of these in full."""
        (best, sizes), (asked, steps) = self._best(len(queries), k, len(rows)), self._coded(queries)
        kernel.scan(self._graph, asked, steps, rows, best=best, sizes=sizes)
        return self._finished(queries, k, best, sizes)

    def _coded(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Queries as codes, and what a step of each is worth."""
        return kernel.ask(queries, self._graph.codes.shape[1], unit=False)[1:]

    def _best(self, queries: int, k: int, most: int, refined: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """Room for the keys that are to be refined, of as many as can be found, and for how many they are."""
        within = min(most, k * self.settings["refine"]) if refined and self.dtype != "int8" else min(most, k)
        return np.empty((queries, within), np.uint64), np.zeros(queries, np.int64)

    def _finished(
        self, queries: np.ndarray, k: int, best: np.ndarray, sizes: np.ndarray, refined: bool = True
    ) -> Neighbours:
        """The nearest k of the keys that were found, scored in full."""
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = np.full((len(queries), k), -1, dtype=np.int64)
        if not refined:
            there = np.arange(best.shape[1]) < sizes[:, None]
            ids = NONE - (best & np.uint64(NONE)).astype(np.int64)
            found[:, : best.shape[1]] = np.where(there, ids, -1)
        elif self.dtype == "int8":
            self._by_codes(queries, best, sizes, scores, found)
        else:
            rows = self._rows.view(np.uint16) if self.dtype == "float16" else self._rows
            kernel.kernels().refine(queries, rows, self.metric == "l2", best, sizes, scores, found)
        return Neighbours(scores, found)

    def _by_codes(
        self, queries: np.ndarray, best: np.ndarray, sizes: np.ndarray, scores: np.ndarray, found: np.ndarray
    ) -> None:
        """Scores of codes with the queries as they are."""
        for q, query in enumerate(queries):
            ids = np.sort(NONE - (best[q, : max(0, sizes[q])] & np.uint64(NONE)).astype(np.int64))
            if len(ids):
                codes, scales = self._graph.codes[ids, : self.dim], self._graph.facts[ids, -2]
                near = nearest(query[None], codes, len(ids), scales=scales, metric=self.metric)
                scores[q, : len(ids)], found[q, : len(ids)] = near.scores[0], ids[near.ids[0]]

    def _scan(self, queries: np.ndarray, k: int, ids: np.ndarray) -> Neighbours:
        """Exactly the nearest of some rows."""
        allow = None
        if len(ids) < self._count:
            allow = np.zeros(self._count, dtype=bool)
            allow[ids] = True
        if self.dtype == "int8":
            codes = self._graph.codes[: self._count, : self.dim]
            scales = self._graph.facts[: self._count, -2]
            return nearest(queries, codes, k, scales=scales, metric=self.metric, allow=allow)
        return nearest(queries, self._rows[: self._count], k, metric=self.metric, allow=allow)

    def _ready(self, rows: Any, what: str) -> np.ndarray:
        rows = checked_rows(rows, self.dim, what=what)
        if what == "query":
            return kernel.ask(rows, self._graph.codes.shape[1], unit=self.metric == "cosine")[0]
        return normalise(rows) if self.metric == "cosine" else np.ascontiguousarray(rows)

    def _room(self) -> Room:
        """Some that no search is using."""
        try:
            return self._spare.pop()
        except IndexError:
            return Room.of(self._graph)

    def _append(self, vectors: np.ndarray, kept: np.ndarray) -> None:
        """Put rows and their levels behind the rows there are, without links; makes room where there is none."""
        old, count, stop = self._graph, self._count, self._count + len(vectors)
        levels = _levels(count, stop, self.settings["connectivity"], self.settings["seed"])
        higher = self._higher + int(levels.sum(dtype=np.int64))
        codes = old.codes
        if stop > len(codes):
            codes = kernel.aligned(max(stop, len(codes) * 3 // 2), codes.shape[1])
            codes[:count] = old.codes[:count]
        graph = Graph(
            codes=codes, facts=codes.view(np.float32), levels=_longer(old.levels, count, stop),
            links=_longer(old.links, count, stop), above=_longer(old.above, count, stop),
            higher=_longer(old.higher, self._higher, higher), twins=_longer(old.twins, count, stop),
            entry=old.entry.copy(),
        )  # fmt: skip
        kernel.code(vectors, distances=self.metric == "l2", out=codes[count:stop])
        graph.levels[count:stop], graph.links[count:stop], graph.twins[count:stop] = levels, NONE, NONE
        graph.above[count:stop] = self._higher + np.cumsum(levels, dtype=np.int64) - levels
        graph.higher[self._higher : higher] = NONE
        self._graph, self._rows = graph, _longer(self._rows, count, stop)
        self._rows[count:stop] = kept

    def _trimmed(self) -> dict[str, np.ndarray]:
        """The arrays as far as they are in use, by name."""
        graph, n = self._graph, self._count
        ends = {"codes": n, "levels": n, "links": n, "above": n, "higher": self._higher, "twins": n, "entry": 1}
        return {**{name: getattr(graph, name)[:end] for name, end in ends.items()}, "rows": self._rows[:n]}


def _levels(first: int, last: int, connectivity: int, seed: int) -> np.ndarray:
    """Levels of rows uint8: ⌊−ln(u) / ln(M)⌋ of a number u in (0, 1] that row and seed decide."""
    u = ((mixed(np.arange(first, last), seed) >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53
    return (-np.log(u) / math.log(connectivity)).astype(np.uint8)


def _longer(array: np.ndarray, used: int, needed: int) -> np.ndarray:
    """The array, or a longer copy: growing by half keeps the cost of copying a constant per row."""
    if needed <= len(array):
        return array
    grown = np.empty((max(needed, len(array) * 3 // 2), *array.shape[1:]), dtype=array.dtype)
    grown[:used] = array[:used]
    return grown
