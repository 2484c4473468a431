"""Which way to keep and search rows, found by successive halving over growing samples of queries and rows.

Every configuration is tried on few queries and few rows; those that go on are tried on more, and the last are measured
on all of them. After each round a configuration is dropped for another that takes no more bytes, is no slower, and
which it does not beat by more than a margin: the paired bootstrap over the round's queries is sure of that. Of those
that are left, only so many go on: the ones that gain most over cheaper ones, and the ones that the bounds would choose.
Where a budget is given, what takes more bytes by its codes alone is not measured at all.

How fast a scan, a graph and a second stage become with more rows differs, so these compete only in the last round.

Sources: successive halving as in Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization" (arXiv 1502.07943), with rows as the resource; the frontier of "Optimization of embeddings storage for RAG
systems" (arXiv 2505.00105).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.evaluation.bootstrap import weights_of_resamples
from inlay.evaluation.frontier import BLUR, SLOWER, Point, Recommendation, frontier, recommend, share_kept
from inlay.evaluation.tuning_grid import grid
from inlay.evaluation.tuning_task import Task
from inlay.indexes.configuration import Configuration
from inlay.indexes.shelf import Made, Shelf

__all__ = ["Round", "Tuning", "tune"]

MARGIN = 0.005  # of the full quality: what a configuration must gain to be worth more bytes or time
RESAMPLES, LEVEL = 400, 2.5
FEWEST_QUERIES, FEWEST_ROWS = 32, 256  # of a round
FEWEST_WAYS = 3  # of a family that go on, if there are as many
GRAPHS = 2  # that are built again, and one more for each further family: a build costs as much as many searches
ROUNDS = ((1 / 8, 1 / 8, 1 / 8), (1 / 4, 1 / 4, 1 / 15))  # share of rows, of queries, and of configurations that go on
TIMED = 30  # calls at least, in the last round
WARM = 3


class Round(NamedTuple):
    """One round: rows and queries it had, configurations it measured, and how many went on."""

    rows: int
    queries: int
    measured: int
    kept: int
    seconds: float


class _Seen(NamedTuple):
    """What one round measured of a configuration."""

    values: np.ndarray
    nbytes: int
    ms: float
    rows: int


@dataclass(frozen=True)
class Tuning:
    """What was found.

    Args:
        task: what was measured on.
        points: configurations of the last round, full precision among them.
        rounds: what each took.
        configurations: of the whole grid.
        left_out: configuration → why it could not be measured.
        remarks: what a reader should know.
    """

    task: Task
    points: tuple[Point, ...]
    rounds: tuple[Round, ...]
    configurations: int
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def frontier(self) -> list[Point]:
        """Points that no other beats, by bytes."""
        return frontier(self.points)

    @property
    def full(self) -> Point:
        """Exact search at full precision."""
        return next(one for one in self.points if one.configuration.full)

    @property
    def work(self) -> int:
        """Rows times queries times configurations, over all rounds: what an exhaustive grid takes most of."""
        return sum(one.rows * one.queries * one.measured for one in self.rounds)

    @property
    def seconds(self) -> float:
        """Wall-clock time of the rounds."""
        return sum(one.seconds for one in self.rounds)

    def recommend(
        self, *, budget: int | None = None, latency_ms: float | None = None, floor: float = 0.98
    ) -> Recommendation:
        """The point to take within bounds: see `inlay.evaluation.recommend`."""
        return recommend(self.points, budget=budget, latency_ms=latency_ms, floor=floor)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return self.task.to_dict() | {
            "full": self.full.to_dict(), "frontier": [one.to_dict() for one in self.frontier],
            "measured": [one.to_dict() for one in self.points], "configurations": self.configurations,
            "rounds": [one._asdict() | {"seconds": round(one.seconds, 3)} for one in self.rounds],
            "left_out": self.left_out, "remarks": list(self.remarks),
        }  # fmt: skip


def tune(
    task: Task,
    configurations: Iterable[Configuration] | None = None,
    *,
    budget: int | None = None,
    latency_ms: float | None = None,
    floor: float = 0.98,
    halving: bool = True,
    margin: float = MARGIN,
    progress: bool = False,
) -> Tuning:
    """Measure the frontier of quality, bytes and latency.

    Args:
        task: rows, queries and what is right.
        configurations: those to try; by default `grid` of each encoder. Full precision is always among them.
        budget: bytes that will be asked for. It guides what is measured to the end, and what takes more by its codes
            alone is not measured at all, unless nothing takes less.
        latency_ms: milliseconds that will be asked for, which only guide.
        floor: likewise, the share of the full quality.
        halving: False measures every configuration on all rows and queries.
        margin: share of the full quality within which configurations are equal.
        progress: show bars.
    """
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 <= margin < 1:
        raise BadInput(f"margin is a share of the full quality from 0 on and below 1, got {margin!r}")
    asked = _asked(task, configurations)
    left = _payable(task, asked, budget) if halving and budget is not None else asked
    beyond, sizes = len(asked) - len(left), Counter(one.family for one in left)
    rounds: list[Round] = []
    before: dict[Configuration, _Seen] = {}
    bounds = _Bounds(budget, latency_ms, floor)
    for rows, queries, kept in _rounds(task) if halving else ():
        began = time.perf_counter()
        cut = task.cut(rows, queries)
        seen, unfit = _measured(cut, left, progress, rough=True)
        counts = {family: max(FEWEST_WAYS, round(kept * size)) for family, size in sizes.items()}
        chosen = set(_going_on(seen, counts, margin, bounds, task.seed)) | set(unfit)
        left = [one for one in left if one in chosen or one.full]
        rounds.append(Round(cut.rows, cut.queries, len(seen), len(left), time.perf_counter() - began))
        before = seen
    began = time.perf_counter()
    seen, unfit = _measured(task, left, progress, least=TIMED)
    full = next((seen[one].values for one in left if one.full and one in seen), None)
    if full is None:
        raise BadInput("full precision could not be measured: " + next(iter(unfit.values()), "it was not tried"))
    points = [
        Point(
            one, found.values, found.nbytes, found.ms, share_kept(found.values, full, seed=task.seed),
            _projected(one, found, before.get(one), task.total, task.spaces[one.encoder].encode_ms),
        )
        for one, found in seen.items()
    ]  # fmt: skip
    points.sort(key=lambda one: (one.nbytes, one.ms))
    rounds.append(Round(task.rows, task.queries, len(seen), len(frontier(points)), time.perf_counter() - began))
    left_out = {str(one): why for one, why in unfit.items()}
    return Tuning(task, tuple(points), tuple(rounds), len(asked), left_out, _remarks(task, full, beyond))


class _Bounds(NamedTuple):
    """What will be asked of the recommendation."""

    budget: int | None
    latency_ms: float | None
    floor: float

    def order(self, seen: dict[Configuration, _Seen], full: float) -> list[Configuration]:
        """Configurations that these bounds would choose first, by what a round saw of them."""
        within = {one: found for one, found in seen.items() if self.budget is None or found.nbytes <= self.budget}
        if self.budget is not None:
            return sorted(within, key=lambda one: (-seen[one].values.mean(), seen[one].nbytes))
        enough = [one for one in within if seen[one].values.mean() >= self.floor * full]
        return sorted(enough, key=lambda one: seen[one].nbytes)


def _asked(task: Task, configurations: Iterable[Configuration] | None) -> list[Configuration]:
    """What is to be measured, without repetition, those that share an index beside each other."""
    if configurations is None:
        found = [one for name, own in task.spaces.items() for one in grid(own.rows.shape[1], task.rows, encoder=name)]
    else:
        found = list(configurations)
        unknown = next((one.encoder for one in found if one.encoder not in task.spaces), None)
        if unknown is not None:
            raise BadInput(f"there are no rows of encoder {unknown!r}; there are those of {', '.join(task.spaces)}")
    found = [Configuration("", "float32", encoder=next(iter(task.spaces))), *found]
    order = list(task.spaces)
    return sorted(
        dict.fromkeys(found),
        key=lambda one: (order.index(one.encoder), not one.full, one.index, one.codec_name, one.candidates, one.fine),
    )


def _payable(task: Task, asked: list[Configuration], budget: int) -> list[Configuration]:
    """Those whose codes alone do not take more than the budget, beside full precision; all, where no other is left."""
    dims = {name: own.rows.shape[1] for name, own in task.spaces.items()}
    found = [one for one in asked if one.full or one.least_nbytes(dims[one.encoder]) * task.total <= budget]
    return found if any(not one.full for one in found) else asked


def _rounds(task: Task) -> list[tuple[int, int, float]]:
    """Rows, queries and the share that goes on, of the rounds before the last; none where little is to be saved."""
    found = []
    for rows, queries, kept in ROUNDS:
        some = max(FEWEST_ROWS, round(rows * task.rows)), max(FEWEST_QUERIES, round(queries * task.queries))
        if some[0] <= 0.75 * task.rows and some[1] <= 0.75 * task.queries:
            found.append((*some, kept))
    return found


def _measured(
    task: Task, configurations: Sequence[Configuration], progress: bool, *, least: int = 0, rough: bool = False
) -> tuple[dict[Configuration, _Seen], dict[Configuration, str]]:
    """Each configuration on all queries of a task, and why some could not be."""
    from tqdm import tqdm

    seen: dict[Configuration, _Seen] = {}
    unfit: dict[Configuration, str] = {}
    shelf: Shelf | None = None
    encoder: str | None = None
    label = f"{task.rows:,} rows, {task.queries:,} queries"
    for one in tqdm(configurations, desc=label, unit="way", disable=not progress, leave=False):
        own = task.spaces[one.encoder]
        if shelf is None or encoder != one.encoder:
            shelf, encoder = Shelf(own.rows, task.metric, seed=task.seed, rough=rough), one.encoder
        try:
            made = shelf.made(one)
            found, ms = _asked_one_by_one(made, own.queries, task.depth, least, warm=1 if rough else WARM)
        except BadInput as error:
            unfit[one] = str(error)
            continue
        values = task.quality(one.encoder, found)
        seen[one] = _Seen(values, made.nbytes(task.total), ms + own.encode_ms, task.rows)
    return seen, unfit


def _asked_one_by_one(
    made: Made, queries: np.ndarray, depth: int, least: int, warm: int
) -> tuple[list[np.ndarray], float]:
    """What is found for each query, and the median of milliseconds, one query a call."""
    for query in queries[:warm]:
        made.search(query, depth)
    found, took = [], []
    for i in range(max(len(queries), least)):
        began = time.perf_counter()
        ids = made.search(queries[i % len(queries)], depth)
        took.append(time.perf_counter() - began)
        if i < len(queries):
            found.append(ids)
    return found, float(np.median(took)) * 1000


def _going_on(
    seen: dict[Configuration, _Seen], counts: dict[Any, int], margin: float, bounds: _Bounds, seed: int
) -> list[Configuration]:
    """Those that the next round measures, `counts` of each family at most."""
    full = next((float(found.values.mean()) for one, found in seen.items() if one.full), 0.0)
    queries = len(next(iter(seen.values())).values)
    weights = np.stack(list(weights_of_resamples(queries, RESAMPLES, seed))) / queries
    means = {one: weights @ found.values for one, found in seen.items()}
    chosen: list[Configuration] = []
    built: list[tuple[str, str]] = []
    for family in dict.fromkeys(one.family for one in seen):
        own = {one: found for one, found in seen.items() if one.family == family}
        kept = _unbeaten(own, means, margin * full)
        room = counts[family]
        gains = _gains({one: own[one] for one in kept})
        # In turns: what the bounds would take, and what gains most over anything cheaper.
        first = bounds.order({one: own[one] for one in kept}, full)
        second = sorted(kept, key=lambda one: -gains[one])
        turns = [one for pair in zip(first, second) for one in pair]
        order = list(dict.fromkeys([*turns, *first, *second]))
        own_builds = ((one.reducer, one.codec) for one in order if one.index == "graph")
        built = list(dict.fromkeys([*built, *own_builds]))[: max(GRAPHS, len(built) + 1)]
        chosen += [one for one in order if one.index != "graph" or (one.reducer, one.codec) in built][:room]
    return chosen


def _unbeaten(
    own: dict[Configuration, _Seen], means: dict[Configuration, np.ndarray], margin: float
) -> list[Configuration]:
    """From the cheapest on: those that a kept one may fall short of by more than the margin."""
    kept: list[Configuration] = []
    for one in sorted(own, key=lambda one: (own[one].nbytes, own[one].ms, -float(own[one].values.mean()))):
        soon = [means[other] for other in kept if own[other].ms <= own[one].ms * SLOWER + BLUR]
        if not soon or (np.percentile(np.array(soon) - means[one], LEVEL, axis=1) < -margin).all():
            kept.append(one)
    return kept


def _gains(own: dict[Configuration, _Seen]) -> dict[Configuration, float]:
    """Mean quality over the best that takes fewer bytes and no more time."""
    found = {}
    for one, it in own.items():
        cheaper = [
            float(other.values.mean())
            for which, other in own.items()
            if which != one and other.nbytes <= it.nbytes and other.ms <= it.ms * SLOWER + BLUR
        ]
        found[one] = float(it.values.mean()) - max(cheaper) if cheaper else math.inf
    return found


def _projected(one: Configuration, now: _Seen, before: _Seen | None, total: int, encode_ms: float) -> float | None:
    """Milliseconds for all rows: a scan grows by as much as it did between two rounds, a graph by the logarithm."""
    if total <= now.rows:
        return None
    search = now.ms - encode_ms
    if one.index == "graph":
        return encode_ms + search * math.log(total) / math.log(max(2, now.rows))
    if before is None or before.rows >= now.rows:
        return encode_ms + search * total / now.rows
    slope = max(0.0, now.ms - before.ms) / (now.rows - before.rows)
    return now.ms + slope * (total - now.rows)


def _remarks(task: Task, full: np.ndarray, beyond: int) -> tuple[str, ...]:
    said = list(task.remarks)
    if beyond:
        said.append(f"{beyond} ways take more than the budget by their codes alone, and were not measured.")
    if task.rows == 1:
        said.append("There is one passage: every search finds it, and only bytes differ.")
    if task.queries == 1:
        said.append("There is one query: no interval can be given, and another query may see it otherwise.")
    elif task.queries < 2 * FEWEST_QUERIES:
        said.append(f"{task.queries} queries are few: intervals are wide, and all configurations were measured.")
    if not full.any():
        said.append("Full precision finds nothing right for any query: shares of its quality mean nothing here.")
    if task.total > task.rows:
        said.append(
            f"Measured on {task.rows:,} of {task.total:,} passages: bytes are those of all, latencies are projected, "
            "and small codes lose more among more passages."
        )
    return tuple(said)
