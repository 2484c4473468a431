"""A graph searched among the rows that a filter allows, each query by the way that `filter_plan` chooses for it.

Whatever way is taken, no answer is shorter than it need be: where a walk found fewer than k rows and more are allowed,
the sure way follows, a scan or lists. It follows, too, on a walk through rows that are not allowed when that has scored
rows for as long as the sure way would take: so a wrong guess costs no more than twice as much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.card import found_setting
from inlay.indexes.filter_plan import (
    PRIOR,
    PROBE,
    WALKS,
    FilterCosts,
    FilterPlan,
    Route,
    WalkCost,
    choose,
    must_probe,
    sure_way,
)
from inlay.indexes.post_filter import MARGIN, post_filtered
from inlay.types import Neighbours

if TYPE_CHECKING:
    from inlay.indexes.dense_graph import DenseGraph

__all__ = ["Answer", "filtered", "measured_costs"]

LARGEST = 4096  # candidates of a walk that is being measured
LEAST = 512  # rows that any walk may score
MANY = 5000  # rows of a scan that is being timed
CLOCK = time.thread_time  # another program's work is no cost of ours
WIDE = 0.1  # share of allowed rows below which a post-filter is not measured: it never wins there


class Answer(NamedTuple):
    """What was found, how many rows were scored, and which ways were taken."""

    neighbours: Neighbours
    scored: int
    plans: list[FilterPlan]


class Choices:
    """The planner's choices for one filter; each is made once.

    Args:
        costs: of the index.
        matches: rows that pass.
        count: rows of the index.
        efs_at: way → candidates to keep, by share of rows that pass.
        queries: of the call.
    """

    def __init__(
        self, costs: FilterCosts, matches: int, count: int, efs_at: Callable[[float], dict[str, int]], queries: int
    ) -> None:
        self.costs, self.matches, self.count, self.efs_at, self.queries = costs, matches, count, efs_at, queries
        self.efs = efs_at(matches / count)
        self.sure, self.micros = sure_way(costs, matches, count, self.efs, queries)
        self._made: dict[int | None, FilterPlan] = {}

    @property
    def probes(self) -> bool:
        """Whether to look at the rows near the query."""
        return must_probe(self.costs, self.matches, self.count, self.efs, self.queries)

    def after(self, passed: int | None) -> FilterPlan:
        """The plan, knowing how many of the `PROBE` nearest rows pass, if that was looked at."""
        plan = self._made.get(passed)
        if plan is None:
            share = self.matches / self.count
            # A few rows that pass as the filter does on average are counted with them: none of 24 need not mean none.
            local = None if passed is None else (passed + PRIOR * share) / (PROBE + PRIOR)
            efs = self.efs_at(share if local is None else local)
            if local is not None and "lists" in efs:
                efs["lists"] = self.efs["lists"]
            plan = choose(self.costs, self.matches, self.count, efs, local, self.queries)
            self._made[passed] = plan
        return plan

    def forced(self, route: Route, k: int) -> FilterPlan:
        """A plan that somebody else made."""
        ef = self.efs.get(route, k) if route != "scan" else 0
        return FilterPlan(route, self.count, self.matches, None, {}, ef)


def filtered(
    index: DenseGraph,
    queries: np.ndarray,
    k: int,
    allow: np.ndarray,
    costs: FilterCosts,
    efs_at: Callable[[float], dict[str, int]],
    route: Route | None = None,
    told: bool = False,
) -> Answer:
    """The k nearest of the allowed rows.

    Args:
        index: to search.
        queries: float32 [q, dim], ready.
        k: how many.
        allow: bool [n].
        costs: of the ways.
        efs_at: way → candidates to keep, by share of rows that pass.
        route: the way to take, or None for the planner's choice.
        told: whether the plans are wanted.
    """
    began = CLOCK()
    q, count, matches = len(queries), len(index), int(np.count_nonzero(allow))
    if not matches or not q:
        empty = Neighbours(np.full((q, k), -np.inf, dtype=np.float32), np.full((q, k), -1, dtype=np.int64))
        return Answer(empty, 0, [FilterPlan("scan", count, matches, None, {})] * q)
    if matches == count and route is None:
        every, scored = index._walked(queries, k, None, efs_at(1.0)["two-hop"], "all")
        return Answer(every, scored, [FilterPlan("all", count, matches, None, {}, 0, _micros(began) / q)] * q)

    scan, scored = costs.scan(matches, q), 0
    choices = Choices(costs, matches, count, efs_at, q)
    if route is not None:
        plans = [choices.forced(route, k)] * q
    elif scan <= costs.probe:  # nothing can be cheaper than to look
        plans = [FilterPlan("scan", count, matches, None, {"scan": scan})] * q
    elif choices.probes:
        near, scored = index._walked(queries, PROBE, None, PROBE, "all", refined=False)
        passed = (allow[near.ids] & (near.ids >= 0)).sum(axis=1)
        plans = [choices.after(number) for number in passed.tolist()]
    else:
        plans = [choices.after(None)] * q

    shared = _micros(began) / q
    groups: dict[tuple[str, int], list[int]] = {}
    for i, plan in enumerate(plans):
        groups.setdefault((plan.route, plan.ef), []).append(i)
    limit = None if route is not None else LEAST + math.ceil(choices.micros / costs.visited)
    scores, ids = np.empty((q, k), np.float32), np.empty((q, k), np.int64)
    for (way, ef), members in groups.items():
        began, own = CLOCK(), queries if len(members) == q else queries[members]
        found: Neighbours | None = None
        late = np.arange(len(members))
        if way != "scan":
            found, more = _walk(index, way, own, k, allow, ef, limit)
            late = np.flatnonzero(found.ids[:, min(k, matches) - 1] < 0)
            scored += more
        if len(late):
            rest, more = _surely(index, choices, way, own if len(late) == len(own) else own[late], k, allow)
            scored += more
            if found is None:
                found = rest
            else:
                found.scores[late], found.ids[late] = rest
        assert found is not None
        if len(members) == q:
            scores, ids = found
        else:
            scores[members], ids[members] = found
        if told:
            took, completed = shared + _micros(began) / len(members), set() if way == "scan" else set(late.tolist())
            for i, member in enumerate(members):
                plans[member] = plans[member].done(took, i in completed)
    return Answer(Neighbours(scores, ids), scored, plans)


def _surely(
    index: DenseGraph, choices: Choices, way: str, queries: np.ndarray, k: int, allow: np.ndarray
) -> tuple[Neighbours, int]:
    if way != "scan" and choices.sure == "lists":
        return index._probed(queries, k, allow, choices.efs["lists"])
    return index._scanned(queries, k, np.flatnonzero(allow)), choices.matches * len(queries)


def _walk(
    index: DenseGraph, way: str, queries: np.ndarray, k: int, allow: np.ndarray, ef: int, limit: int | None
) -> tuple[Neighbours, int]:
    if way == "lists":
        return index._probed(queries, k, allow, ef)
    if way != "post":
        return index._walked(queries, k, allow, ef, way, limit=limit if way == "through" else None)
    scored = 0

    def search(asked: np.ndarray, wide: int) -> Neighbours:
        nonlocal scored
        found, more = index._walked(asked, wide, None, max(ef, wide), "all")
        scored += more
        return found

    return post_filtered(search, queries, k, allow), scored


def measured_costs(
    index: DenseGraph, queries: np.ndarray, k: int, recalls: Sequence[float], shares: Sequence[float], seed: int
) -> list[FilterCosts]:
    """Time every way on filters that allow random rows, with the ef that reaches each recall. Arguments as in
    `DenseGraph.calibrate_filters`.
    """
    random, count, recalls = np.random.default_rng(seed), len(index), sorted(set(map(float, recalls)))
    walks: dict[float, dict[str, list[WalkCost]]] = {recall: {way: [] for way in WALKS} for recall in recalls}
    lost: set[tuple[float, str]] = set()
    for share in sorted(shares, reverse=True):
        allow = random.random(count) < share
        allowed = np.flatnonzero(allow)
        if len(allowed) < k:
            continue
        truth = index._scan(queries, k, allowed).ids
        for way in WALKS:
            if (way == "post" and share < WIDE) or (way == "lists" and index.lists is None):
                continue

            def search(own: np.ndarray, ef: int, way: str = way, allow: np.ndarray = allow) -> np.ndarray:
                return _walk(index, way, own, k, allow, ef, None)[0].ids

            def recall_at(ef: int, search: Any = search, truth: np.ndarray = truth) -> float:
                return _recall(search(queries, ef), truth)

            ef: int | None = k if way != "post" else min(count, math.ceil(MARGIN * k / share))
            for recall in recalls:
                if ef is not None and (recall, way) not in lost:
                    ef = found_setting(recall_at, recall, ef, max(ef, min(count, LARGEST if way != "lists" else count)))
                if ef is None or (recall, way) in lost:
                    lost.add((recall, way))  # nor will it be reached among fewer rows
                    continue
                took = _timed(partial(search, ef=ef), queries)
                walks[recall][way].append(WalkCost(share, ef, took))
    some = np.sort(random.permutation(count)[:MANY])
    mask = np.zeros(count, dtype=bool)
    mask[some] = True
    began = CLOCK()
    for _ in range(20):
        np.flatnonzero(mask)
    listed = _micros(began) / 20
    few = some[:: max(1, len(some) // 16)]
    call = _timed(lambda own: index._scanned(own, k, few), queries)  # what any call costs is no cost of rows
    one = max(0.0, _timed(lambda own: index._scanned(own, k, some), queries) - call)
    began = CLOCK()
    index._scanned(queries, k, some)
    many = _micros(began) / len(queries)
    probe = _timed(lambda own: index._walked(own, PROBE, None, PROBE, "all", refined=False), queries)
    began = CLOCK()
    visits = index._walked(queries, k, None, max(k, 64), "all")[1]
    visited = _micros(began) / max(1, visits)
    return [
        FilterCosts(
            listed=listed, call=call, scanned=one / len(some), scored=min(one, many) / len(some), probe=probe,
            visited=visited, walks={way: tuple(own) for way, own in walks[recall].items() if own}, recall=recall, k=k,
        )
        for recall in recalls
    ]  # fmt: skip


def checked_recalls(recalls: Sequence[float]) -> tuple[float, ...]:
    """Recalls in (0, 1]."""
    kept = tuple(float(recall) for recall in recalls)
    if not kept or not all(0 < recall <= 1 for recall in kept):
        raise BadInput(f"recalls lie above 0 and at most at 1, got {recalls!r}")
    return kept


def checked_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Shares in (0, 1)."""
    kept = tuple(float(share) for share in shares)
    if not kept or not all(0 < share < 1 for share in kept):
        raise BadInput(f"shares of allowed rows lie between 0 and 1, got {shares!r}")
    return kept


def _timed(search: Callable[[np.ndarray], Any], queries: np.ndarray) -> float:
    """µs a query, one a call: the median, which a busy moment does not move."""
    took = []
    for i in range(len(queries)):
        began = CLOCK()
        search(queries[i : i + 1])
        took.append(_micros(began))
    return float(np.median(took))


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    hits = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(found, truth))
    return hits / max(1, int((truth >= 0).sum()))


def _micros(began: float) -> float:
    return (CLOCK() - began) * 1e6
