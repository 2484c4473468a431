"""Which way a filtered search of a graph should go: what each way costs, and where the filter leaves the query.

There are five ways, after the taxonomy of "Benchmarking Filtered Approximate Nearest Neighbor Search Algorithms on
Transformer-based Embedding Vectors" (arXiv 2507.21989), and none is best everywhere:

- `scan` (pre-filter): score every allowed row. Costs the same wherever they are.
- `lists` (in-filter): score the allowed rows of the lists nearest to the query (`filtered_lists`). For indexes that
  have lists, which `calibrate_filters` makes.
- `through` (in-filter): walk as ever, keep only what is allowed. Costs about 1/s of a walk where a share s is allowed.
- `two-hop` (in-filter): walk among allowed rows, looking past the others at what they link to (ACORN, arXiv
  2403.04871). Costs little more than a walk, but what has no allowed row near it is not reached.
- `post` (post-filter): search for more than k and drop what is not allowed.

The share that matters to a walk is not that of all rows but that of the rows near the query. A filter may be where the
query is (*positively correlated*: then a walk is cheap, however narrow the filter) or elsewhere (*negatively*: then a
walk goes a long way, and a two-hop walk starves). A scan and lists cost the same wherever the filter is: one of them is
the *sure* way. Where a walk through is expected to be cheaper, it is begun, and ended in favour of the sure way when it
has cost as much. Where only a positive correlation would make a walk worth while, and much so, a short walk without the
filter looks at the nearest rows first, and counts how many of them pass. So it does before two hops are taken on trust,
which give no sign of what they miss; where costs were measured, it is known that they reach the recall. There two hops
are taken even where they are expected to cost a little more than another way, since correlation changes them least.

Costs are those of one index on one machine: `DenseGraph.calibrate_filters` measures them. Before that, they are taken
from figures of text vectors on an ordinary server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

from inlay.errors import BadInput

__all__ = [
    "PROBE",
    "SHARES",
    "WALKS",
    "FilterCosts",
    "FilterPlan",
    "Route",
    "WalkCost",
    "choose",
    "must_probe",
    "sure_way",
]

Route: TypeAlias = Literal["scan", "lists", "two-hop", "through", "post", "all"]
WALKS = ("lists", "through", "two-hop", "post")
SHARES = (0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # at which walks are measured
PROBE = 24  # nearest rows that are looked at to see how many pass
PRIOR = 4  # rows that pass as the filter does on average, and are counted with them: 0 of 24 need not mean none
APART = 10.0  # the correlation that a probe hopes for
GAIN = 2.0  # how many times cheaper the search must then be, the probe included
# How many times as much as another walk, or lists, two hops may be expected to cost: their recall and time change least
# where a filter goes with the query or against it, which costs measured on drawn filters do not show.
STEADY = 2.0
STEEP = {"lists": 0.3, "two-hop": 0.5, "through": 1.0, "post": 1.0}  # how costs rise below the least share measured
EXPONENT = 0.75  # a walk's time grows like this power of its ef


@dataclass(frozen=True)
class WalkCost:
    """What a walk took where a share of rows, chosen at random, was allowed.

    Args:
        share: of rows that were allowed.
        ef: candidates it kept.
        micros: µs a query.
    """

    share: float
    ef: int
    micros: float


@dataclass(frozen=True)
class FilterCosts:
    """What the ways of a filtered search cost on one index.

    Args:
        call: µs of a scan of next to nothing.
        scanned: µs a row of a scan, the first query of a call.
        scored: µs a row of a scan, each further query of a call.
        probe: µs of a short walk without the filter.
        visited: µs a row of a walk.
        walks: for each way but the scan, its costs by share, the largest first. A way that never reached the recall is
            not there.
        recall: that the walks were set to reach; 0 where nothing was measured.
        k: neighbours they were asked for.
    """

    call: float
    scanned: float
    scored: float
    probe: float
    visited: float
    walks: Mapping[str, tuple[WalkCost, ...]] = field(default_factory=dict)
    recall: float = 0.0
    k: int = 10

    def __post_init__(self) -> None:
        logs = {
            way: [(math.log(one.share), math.log(one.ef), math.log(one.micros)) for one in own]
            for way, own in self.walks.items()
        }
        object.__setattr__(self, "_logs", logs)

    @classmethod
    def assumed(cls, count: int, width: int) -> FilterCosts:
        """Before anything was measured.

        Args:
            count: rows of the index.
            width: bytes of a row of codes.
        """
        visited = 0.06 + 0.0002 * width  # waiting for a row, and scoring it
        larger = 1 + 0.1 * math.log(max(1, count / 40_000))  # walks are longer among more rows
        walks: dict[str, tuple[WalkCost, ...]] = {
            "through": tuple(WalkCost(s, 16, 40 + 400 * s**-0.76 * larger * visited) for s in SHARES),
            "two-hop": tuple(WalkCost(s, 32, 40 + 1250 * larger * visited) for s in SHARES),
            "post": tuple(WalkCost(s, round(16 / s), 60 + 520 * s**-0.76 * larger * visited) for s in SHARES),
        }
        return cls(
            call=40 + count * 1e-4, scanned=0.006 + 0.00005 * width, scored=0.003 + 0.00002 * width,
            probe=15 + 480 * larger * visited, visited=visited, walks=walks,
        )  # fmt: skip

    def setting(self, way: str, share: float) -> int | None:
        """The ef that reached the recall at the shares on either side, the larger; None where none did.

        Where few pass, what a walk must find anyway can be enough whatever its ef, so a value between would be a guess.
        """
        own = self.walks.get(way, ())
        if not self.recall or not own:
            return None
        above = [one for one in own if one.share >= share][-1:] or own[:1]
        below = [one for one in own if one.share <= share][:1] or own[-1:]
        return max(above[0].ef, below[0].ef)

    def scan(self, matches: int, queries: int = 1) -> float:
        """µs a query of scoring all allowed rows, for calls of some queries with one filter."""
        return self.call / queries + matches * (self.scored + max(0.0, self.scanned - self.scored) / queries)

    def walk(self, way: str, share: float, ef: int | None = None) -> float:
        """µs a query of a walk.

        Args:
            way: `lists`, `two-hop`, `through` or `post`.
            share: of rows that pass; for walks, of those near the query.
            ef: candidates it keeps; as measured, by default.
        """
        if share <= 0 or not self.walks.get(way):
            return math.inf
        known, took = self._at(way, share)
        least = self.walks[way][-1].share
        if share < least:  # beyond what was measured
            took += STEEP[way] * math.log(least / share)
        if ef is not None:
            took += EXPONENT * (math.log(ef) - known)
        return math.exp(took)

    def _at(self, way: str, share: float) -> tuple[float, float]:
        """Logarithms of ef and µs at a share, interpolated over the share's logarithm; flat beyond the ends."""
        logs: list[tuple[float, float, float]] = self._logs[way]  # type: ignore[attr-defined]
        place = math.log(share)
        before = logs[0]
        for one in logs:
            if place >= one[0]:
                if one is before:
                    break
                part = (place - one[0]) / (before[0] - one[0])
                return one[1] + part * (before[1] - one[1]), one[2] + part * (before[2] - one[2])
            before = one
        return before[1], before[2]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        walks = {way: [[one.share, one.ef, one.micros] for one in own] for way, own in self.walks.items()}
        return {**{one.name: getattr(self, one.name) for one in fields(self)}, "walks": walks}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FilterCosts:
        """The reverse of `to_dict`."""
        try:
            walks = {way: tuple(WalkCost(*one) for one in own) for way, own in values["walks"].items()}
            return cls(**{**values, "walks": walks})
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"these are no costs of filtered searches ({error}); call calibrate_filters") from None


@dataclass(frozen=True)
class FilterPlan:
    """Which way one query went, and why.

    Args:
        route: the way.
        count: rows of the index.
        matches: rows that passed the filter.
        local: estimated share of the rows near the query that pass; None where it was not looked at.
        predicted: µs a query of each way, as expected.
        ef: candidates that the walk kept; 0 for a scan.
        measured: µs it took, its part of looking and listing included; None before the search.
        completed: whether the sure way followed, because the walk came back short or cost as much.
    """

    route: Route
    count: int
    matches: int
    local: float | None
    predicted: Mapping[str, float]
    ef: int = 0
    measured: float | None = None
    completed: bool = False

    @property
    def share(self) -> float:
        """Selectivity: the share of rows that pass."""
        return self.matches / self.count if self.count else 0.0

    @property
    def correlation(self) -> float | None:
        """Share of the rows near the query that pass over that of all: above 1, the filter is where the query is."""
        return None if self.local is None or not self.matches else self.local / self.share

    def __str__(self) -> str:
        near = "" if self.local is None else f", about {self.local:.1%} of those near the query"
        costs = ", ".join(f"{way} {cost:,.0f}" for way, cost in self.predicted.items() if math.isfinite(cost))
        took = "" if self.measured is None else f"; took {self.measured:,.0f}"
        more = ", completed" if self.completed else ""
        return (
            f"{self.route}{more}: {self.matches:,} of {self.count:,} rows pass ({self.share:.2%}{near}); "
            f"expected µs: {costs}{took}"
        )

    def done(self, micros: float, completed: bool) -> FilterPlan:
        """The plan with what it took."""
        return replace(self, measured=micros, completed=completed)


def must_probe(costs: FilterCosts, matches: int, count: int, efs: Mapping[str, int], queries: int = 1) -> bool:
    """Whether to look at the rows near the query before a way is chosen.

    Args:
        costs: of the index.
        matches: rows that pass.
        count: rows of the index.
        efs: way → candidates it would keep.
        queries: of the call.
    """
    share, sure = matches / count, sure_way(costs, matches, count, efs, queries)[1]
    walks = {way: ef for way, ef in efs.items() if way != "lists"}
    plain, best = min((costs.walk(way, share, ef), way) for way, ef in walks.items())
    if plain <= sure:
        return best == "two-hop" and not costs.recall
    near = min(costs.walk(way, min(1.0, share * APART), ef) for way, ef in walks.items())
    return GAIN * (near + costs.probe) <= sure


def sure_way(
    costs: FilterCosts, matches: int, count: int, efs: Mapping[str, int], queries: int = 1
) -> tuple[Route, float]:
    """The cheaper of scan and lists, which cost the same wherever the filter is; and its µs a query."""
    scan = costs.scan(matches, queries)
    lists = costs.walk("lists", matches / count, efs["lists"]) if "lists" in efs else math.inf
    return ("scan", scan) if scan <= lists else ("lists", lists)


def choose(
    costs: FilterCosts,
    matches: int,
    count: int,
    efs: Mapping[str, int],
    local: float | None = None,
    queries: int = 1,
) -> FilterPlan:
    """The cheapest way; or two hops, where costs were measured and these are nearly as cheap.

    Arguments are as in `must_probe`; and the share of the rows near the query that pass, if known.
    """
    share = matches / count
    predicted = {"scan": costs.scan(matches, queries)}
    for way, ef in efs.items():  # lists find out for themselves what passes near the query
        predicted[way] = costs.walk(way, share if local is None or way == "lists" else local, ef)
    route: Any = min(predicted, key=lambda way: predicted[way])
    if route != "scan" and costs.recall and predicted.get("two-hop", math.inf) <= STEADY * predicted[route]:
        route = "two-hop"
    return FilterPlan(route, count, matches, local, predicted, efs.get(route, 0))


def checked_route(route: Any) -> Any:
    """A way, or None for the planner's choice."""
    if route is not None and route not in ("scan", *WALKS):
        raise BadInput(f"route must be one of scan, {', '.join(WALKS)}, or None to let it be planned, got {route!r}")
    return route
