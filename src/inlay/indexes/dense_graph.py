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
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from inlay.codecs.scalar import Float16, Float32
from inlay.errors import BadInput
from inlay.indexes.card import found_setting
from inlay.indexes.filter_plan import SHARES, FilterCosts, FilterPlan, Route, checked_route
from inlay.indexes.filtered_lists import Lists
from inlay.indexes.filtered_walks import Answer, checked_recalls, checked_shares, filtered, measured_costs
from inlay.indexes.flat import checked_k, checked_mask
from inlay.indexes.graph_rows import FILTERS, Asked, GraphRows
from inlay.indexes.post_filter import MARGIN
from inlay.kernels import dense_graph as kernel
from inlay.kernels.dense_graph import NONE, Room, Within
from inlay.types import Neighbours

__all__ = ["DenseGraph"]

ROWS_AT_ONCE = 1024  # inserted between two chances to interrupt
KEPT: dict[str, Any] = {"float32": Float32(), "float16": Float16()}
THROUGH, TWO_HOP, SPARSE = 0.5, 0.75, 0.05  # how ef changes with the share of allowed rows, as measured on texts
EFFORT = 100  # of lists, for each candidate that a walk would keep


class DenseGraph(GraphRows):
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

    def add(self, vectors: np.ndarray, *, order: np.ndarray | None = None, progress: bool = False) -> None:
        """Append rows [n, dim]; ids are positions in order of addition. An interrupt adds none of them.

        Args:
            vectors: the rows.
            order: int64 [n], a permutation: the order in which they are inserted into the graph. What comes first
                shapes it (see `inlay.evaluation.index_difficulty`).
            progress: show a bar.
        """
        from tqdm import tqdm

        vectors = self._ready(vectors)
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

    def near(self, queries: np.ndarray, k: int, *, ef: int | None = None) -> np.ndarray:
        """Ids of about the k nearest rows by codes alone, best first, int64 [q, k], -1 for none: for those who keep the
        rows elsewhere, and score them there. Arguments as in `search`.
        """
        asked, k = self._asked(queries), checked_k(k)
        return self._walked(asked, k, None, self._ef(ef, None, k), "all", refined=False)[0].ids

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
        asked, k = self._asked(queries), checked_k(k)
        if not self._count or not len(asked):
            raise BadInput("calibrate needs rows in the index and queries to measure with")
        truth = self._scan(asked.rows, k, np.arange(self._count)).ids

        def recall_at(ef: int) -> float:
            found = self._walked(asked, k, None, ef, "all")[0].ids
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
        asked, k = self._asked(queries), checked_k(k)
        if len(self) <= k or not len(asked):
            raise BadInput(f"calibrate_filters needs more than {k} rows in the index and queries to measure with")
        self._listed()
        costs = measured_costs(self, asked, k, checked_recalls(recalls), checked_shares(shares), seed)
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
        asked, k = self._asked(queries), checked_k(k)
        allow, route = checked_mask(allow, self._count), checked_route(route)
        if allow is None:
            if route is not None:
                raise BadInput(f"route={route!r} is a way among allowed rows; give allow, a bool for each row")
            return Answer(*self._walked(asked, k, None, self._ef(ef, recall, k), "all"), [])
        if route == "lists" and self._count:
            self._listed()
        costs = self.filter_costs(k, recall if ef is None else None)
        return filtered(self, asked, k, allow, costs, self._efs(ef, recall, k), route, (k, ef, recall), told)

    def _insert(self, rows: np.ndarray, budgets: np.ndarray, room: Room) -> None:
        kernel.insert(
            self._graph, rows, expansion=self.settings["expansion_add"], budgets=budgets,
            fill=self.settings["keep_pruned"], room=room,
        )  # fmt: skip

    def _walked(
        self,
        asked: Asked,
        k: int,
        allow: np.ndarray | None,
        ef: int,
        how: str,
        *,
        within: Within | None = None,
        refined: bool = True,
    ) -> tuple[Neighbours, int]:
        """What a walk finds, and how many rows it scored."""
        expansion = max(1, min(max(ef, k), self._count))
        best, sizes = self._best(len(asked), k, expansion, refined)
        room = self._room()
        scored = self._walk(asked, expansion, allow, how, within, room, best, sizes)
        self._spare.append(room)
        return self._finished(asked, k, best, sizes, refined), scored

    def _walk(
        self, asked: Asked, expansion: int, allow: np.ndarray | None, how: str, within: Within | None, room: Room,
        best: np.ndarray, sizes: np.ndarray,
    ) -> int:  # fmt: skip
        return kernel.walk(
            self._graph, asked.codes, asked.steps, expansion=expansion, allowed=allow, how=how, within=within,
            room=room, best=best, sizes=sizes,
        )  # fmt: skip

    def _probed(self, asked: Asked, k: int, allow: np.ndarray, effort: int) -> tuple[Neighbours, int]:
        """What the lists nearest to each query hold, and how many rows were scored."""
        best, sizes = self._best(len(asked), k, self._count)
        lists = self._listed()
        scored = lists.probe(self._graph, asked.codes, asked.steps, np.ascontiguousarray(allow), effort, best, sizes)
        return self._finished(asked, k, best, sizes), scored

    def _listed(self) -> Lists:
        """The rows in lists, which are made if they are not there."""
        with self._lock:
            if self.lists is None:
                seed = self.settings["seed"]
                self.lists = Lists.of(self._graph, self._count, self.dim, metric=self.metric, seed=seed)
                self._choices = {}  # which were made without
            return self.lists

    def _scanned(self, asked: Asked, k: int, rows: np.ndarray) -> Neighbours:
        """The nearest of some rows: all of them by their codes, and the best of these in full."""
        best, sizes = self._best(len(asked), k, len(rows))
        kernel.scan(self._graph, asked.codes, asked.steps, rows, best=best, sizes=sizes)
        return self._finished(asked, k, best, sizes)

    def _room(self) -> Room:
        """Some that no search is using."""
        try:
            return self._spare.pop()
        except IndexError:
            return Room.of(self._graph)
