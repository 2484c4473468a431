"""A graph searched among the rows that a filter allows, each query by the way that `filter_plan` chooses for it.

Whatever way is taken, no answer is shorter than it need be: where a walk found fewer than k rows and more are allowed,
the sure way follows, a scan or lists. It follows, too, on a walk through rows that are not allowed when that has scored
rows for as long as the sure way would take: so a wrong guess costs no more than twice as much. And where hardly any of
the first rows of such a walk are allowed, though many are elsewhere, it is left for one of two hops.
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
    APART,
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
from inlay.kernels.dense_graph import LOOK, Within
from inlay.types import Neighbours

if TYPE_CHECKING:
    from inlay.indexes.dense_graph import DenseGraph
    from inlay.indexes.graph_rows import Asked

__all__ = ["Answer", "filtered", "measured_costs"]

LARGEST = 4096  # candidates of a walk that is being measured
EMPTY = np.empty(0, np.int64)
PLANS = 4096  # that an index remembers
LEAST = 512  # rows that any walk may score
UNLIKELY = 4  # times fewer rows pass than should: a walk through is not the way then
MANY = 5000  # rows of a scan that is being timed
CLOCK = time.thread_time  # another program's work is no cost of ours
UNEVEN = 1.5  # deviation between lists of the log odds that a row of theirs is allowed
WIDE = 0.1  # share of allowed rows below which a post-filter is not measured: it never wins there


class Answer(NamedTuple):
    """What was found, how many rows were scored, and which ways were taken."""

    neighbours: Neighbours
    scored: int
    plans: list[FilterPlan]


class Choices:
    """The planner's choices for filters that about as many rows pass; each is made once.

    `sure` and `micros` are the sure way and its cost, `probes` whether to look at the rows near the query.

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
        self.probes = must_probe(costs, matches, count, self.efs, queries)
        self._made: dict[int | None, FilterPlan] = {}
        # What a walk of two hops keeps where a walk through met hardly any row that passes; 0 where it would not pay.
        far = matches / count / APART
        wide = efs_at(far).get("two-hop", 0)
        self.around = wide if wide and costs.walk("two-hop", far, wide) < self.micros else 0

    def within(self, k: int) -> Within:
        """Where a walk through rows that do not pass gives up: it has cost as much as the sure way, or of the first
        rows it met far fewer pass than of all.
        """
        least = min(k, int(LOOK * self.matches / self.count / UNLIKELY)) if self.around else 0
        return Within(LEAST + math.ceil(self.micros / self.costs.visited), least)

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
    asked: Asked,
    k: int,
    allow: np.ndarray,
    costs: FilterCosts,
    efs_at: Callable[[float], dict[str, int]],
    route: Route | None = None,
    key: tuple[Any, ...] = (),
    told: bool = False,
) -> Answer:
    """The k nearest of the allowed rows.

    Args:
        index: to search.
        asked: the queries.
        k: how many.
        allow: bool [n].
        costs: of the ways.
        efs_at: way → candidates to keep, by share of rows that pass.
        route: the way to take, or None for the planner's choice.
        key: what `costs` and `efs_at` come from; calls with the same may share their plans.
        told: whether the plans are wanted.
    """
    began = CLOCK()
    q, count, matches = len(asked), len(index), int(np.count_nonzero(allow))
    if not matches or not q:
        empty = Neighbours(np.full((q, k), -np.inf, dtype=np.float32), np.full((q, k), -1, dtype=np.int64))
        return Answer(empty, 0, [FilterPlan("scan", count, matches, None, {})] * q)
    if matches == count and route is None:
        every, scored = index._walked(asked, k, None, efs_at(1.0)["two-hop"], "all")
        return Answer(every, scored, [FilterPlan("all", count, matches, None, {}, 0, _micros(began) / q)] * q)

    scored = 0
    # One in sixteen more or less that pass makes no other plan, but planning takes as long as a small search.
    about = None if told else (*key, q, round(8 * math.log2(matches)))
    choices = index._choices.get(about)
    if choices is None:
        choices = Choices(costs, matches, count, efs_at, q)
        if about is not None and len(index._choices) < PLANS:
            index._choices[about] = choices
    if route is not None:
        plans = [choices.forced(route, k)] * q
    elif choices.probes:
        near, scored = index._walked(asked, PROBE, None, PROBE, "all", refined=False)
        passed = (allow[near.ids] & (near.ids >= 0)).sum(axis=1)
        plans = [choices.after(number) for number in passed.tolist()]
    else:
        plans = [choices.after(None)] * q

    free = route is None
    if not told and all(plan is plans[0] for plan in plans):
        found, more, _ = _answered(index, choices, plans[0], asked, k, allow, free)
        return Answer(found, scored + more, plans)
    shared = _micros(began) / q
    scores, ids = np.empty((q, k), np.float32), np.empty((q, k), np.int64)
    groups: dict[tuple[str, int], list[int]] = {}
    for i, plan in enumerate(plans):
        groups.setdefault((plan.route, plan.ef), []).append(i)
    for members in groups.values():
        began = CLOCK()
        found, more, late = _answered(index, choices, plans[members[0]], asked[members], k, allow, free)
        scores[members], ids[members] = found
        scored += more
        if told:
            took, completed = shared + _micros(began) / len(members), set(late.tolist())
            for i, member in enumerate(members):
                plans[member] = plans[member].done(took, i in completed)
    return Answer(Neighbours(scores, ids), scored, plans)


def _answered(
    index: DenseGraph, choices: Choices, plan: FilterPlan, asked: Asked, k: int, allow: np.ndarray, free: bool
) -> tuple[Neighbours, int, np.ndarray]:
    """What a plan finds, rows scored, and the numbers of the queries that another way completed.

    Args:
        index: to search.
        choices: for filters like this one.
        plan: for these queries.
        asked: the queries.
        k: how many.
        allow: bool [n].
        free: whether the plan may be left where it turns out wrong.
    """
    if plan.route == "scan":
        allowed = np.flatnonzero(allow)
        return index._scanned(asked, k, allowed), len(allowed) * len(asked), EMPTY
    within = choices.within(k) if free and plan.route == "through" else None
    found, scored = _walk(index, plan.route, asked, k, allow, plan.ef, within)
    late = _short(found, k, allow)
    waiting = late
    if len(waiting) and within is not None and choices.around:
        part, more = _walk(index, "two-hop", asked[waiting], k, allow, choices.around, None)
        found.scores[waiting], found.ids[waiting] = part
        scored += more
        waiting = waiting[_short(part, k, allow)]
    if len(waiting):
        again = asked if len(waiting) == len(asked) else asked[waiting]
        if choices.sure == "lists":
            rest, more = index._probed(again, k, allow, choices.efs["lists"])
        else:
            allowed = np.flatnonzero(allow)
            rest, more = index._scanned(again, k, allowed), len(allowed) * len(again)
        found.scores[waiting], found.ids[waiting] = rest
        scored += more
    return found, scored, late


def _short(found: Neighbours, k: int, allow: np.ndarray) -> np.ndarray:
    """The numbers of queries that have fewer answers than there are."""
    if found.ids[:, -1].min() >= 0:
        return EMPTY
    return np.flatnonzero(found.ids[:, min(k, int(np.count_nonzero(allow))) - 1] < 0)


def _walk(
    index: DenseGraph, way: str, asked: Asked, k: int, allow: np.ndarray, ef: int, within: Within | None
) -> tuple[Neighbours, int]:
    if way == "lists":
        return index._probed(asked, k, allow, ef)
    if way != "post":
        return index._walked(asked, k, allow, ef, way, within=within)
    scored = 0

    def search(part: np.ndarray, wide: int) -> Neighbours:
        nonlocal scored
        found, more = index._walked(asked[part], wide, None, max(ef, wide), "all")
        scored += more
        return found

    return post_filtered(search, np.arange(len(asked)), k, allow), scored


def measured_costs(
    index: DenseGraph, asked: Asked, k: int, recalls: Sequence[float], shares: Sequence[float], seed: int
) -> list[FilterCosts]:
    """Time every way on filters that were drawn, with the ef that reaches each recall. Arguments as in
    `DenseGraph.calibrate_filters`.
    """
    random, count, recalls = np.random.default_rng(seed), len(index), sorted(set(map(float, recalls)))
    walks: dict[float, dict[str, list[WalkCost]]] = {recall: {way: [] for way in WALKS} for recall in recalls}
    lost: set[tuple[float, str]] = set()
    for share in sorted(shares, reverse=True):
        allow = _as_attributes_are(index, share, random)
        allowed = np.flatnonzero(allow)
        if len(allowed) < k:
            continue
        truth = index._scan(asked.rows, k, allowed).ids
        for way in WALKS:
            if (way == "post" and share < WIDE) or (way == "lists" and index.lists is None):
                continue

            def search(own: Asked, ef: int, way: str = way, allow: np.ndarray = allow) -> np.ndarray:
                return _walk(index, way, own, k, allow, ef, None)[0].ids

            def recall_at(ef: int, search: Any = search, truth: np.ndarray = truth) -> float:
                return _recall(search(asked, ef), truth)

            ef: int | None = k if way != "post" else min(count, math.ceil(MARGIN * k / share))
            for recall in recalls:
                if ef is not None and (recall, way) not in lost:
                    ef = found_setting(recall_at, recall, ef, max(ef, min(count, LARGEST if way != "lists" else count)))
                if ef is None or (recall, way) in lost:
                    lost.add((recall, way))  # nor will it be reached among fewer rows
                    continue
                took = _timed(partial(search, ef=ef), asked)
                walks[recall][way].append(WalkCost(share, ef, took))
    some = np.sort(random.permutation(count)[:MANY])
    masks = np.zeros((2, count), dtype=bool)
    masks[0, some[:: max(1, len(some) // 16)]], masks[1, some] = True, True

    def scan(own: Asked, mask: np.ndarray) -> Any:
        return index._scanned(own, k, np.flatnonzero(mask))

    call, one = (_timed(partial(scan, mask=mask), asked) for mask in masks)
    one = max(0.0, one - call)  # what any call costs is no cost of rows
    began = CLOCK()
    index._scanned(asked, k, some)
    many = _micros(began) / len(asked)
    probe = _timed(lambda own: index._walked(own, PROBE, None, PROBE, "all", refined=False), asked)
    began = CLOCK()
    visits = index._walked(asked, k, None, max(k, 64), "all")[1]
    visited = _micros(began) / max(1, visits)
    return [
        FilterCosts(
            call=call, scanned=one / len(some), scored=min(one, many) / len(some), probe=probe,
            visited=visited, walks={way: tuple(own) for way, own in walks[recall].items() if own}, recall=recall, k=k,
        )
        for recall in recalls
    ]  # fmt: skip


def _as_attributes_are(index: DenseGraph, share: float, random: np.random.Generator) -> np.ndarray:
    """A mask of about a share of the rows, more of some lists than of others: what rows have goes with what they are.

    Where every row had the same chance, walks would seem shorter than they are.
    """
    lists, count = index._listed(), len(index)
    chance = 1 / (1 + np.exp(-np.log(share / (1 - share)) - UNEVEN * random.standard_normal(len(lists.starts) - 1)))
    each = np.empty(count)
    each[lists.rows] = np.repeat(chance, np.diff(lists.starts))
    return random.random(count) < each * (share / each.mean())


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


def _timed(search: Callable[[Asked], Any], asked: Asked) -> float:
    """µs a query, one a call: the median, which a busy moment does not move."""
    took = []
    for i in range(len(asked)):
        began = CLOCK()
        search(asked[i : i + 1])
        took.append(_micros(began))
    return float(np.median(took))


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    hits = sum(len(np.intersect1d(a[a >= 0], b[b >= 0])) for a, b in zip(found, truth))
    return hits / max(1, int((truth >= 0).sum()))


def _micros(began: float) -> float:
    return (CLOCK() - began) * 1e6
