"""Methods of filtered search run on the tasks of a bench: recall and time of every setting, and what they come to.

Each task is asked alone, as filters differ, and timed alone by the processor time of this process, which other
programs on the machine do not add to. What a method needs of a filter (a bitmap, a condition in SQL) is made before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput, MissingExtra
from inlay.evaluation.filtered_bench import BANDS, CORRELATIONS, KINDS, NAMES, FilteredBench, Task
from inlay.indexes.flat import checked_k

__all__ = ["Method", "Point", "Sweep", "run", "shown"]

AT_ONCE = 32  # tasks that a method answers in a row: so many that it runs warm, as it would in use


@dataclass(frozen=True)
class Method:
    """A way of answering tasks.

    Args:
        name: of the method.
        search: (query float32 [1, dim], filter, k, setting) → ids [k] of rows, -1 where there were no more.
        settings: of its knob, in ascending order of effort.
        prepare: (mask bool [n], task) → what `search` takes as filter; the mask itself by default. Not timed.
        skip: (share, setting) → whether a task is beyond the method.
    """

    name: str
    search: Callable[[np.ndarray, Any, int, Any], np.ndarray]
    settings: Sequence[Any]
    prepare: Callable[[np.ndarray, Task], Any] | None = None
    skip: Callable[[float, Any], bool] | None = None


class Point(NamedTuple):
    """Recall and queries per second of a method with a setting, over some tasks."""

    method: str
    setting: Any
    recall: float
    qps: float


@dataclass(frozen=True)
class Sweep:
    """What every method did on every task.

    Args:
        tasks: of the bench.
        k: neighbours that were asked for.
        recall: method → setting → float32 [tasks], NaN where a task was skipped.
        micros: the same of processor time.
    """

    tasks: list[Task]
    k: int
    recall: dict[str, dict[Any, np.ndarray]]
    micros: dict[str, dict[Any, np.ndarray]]

    def where(self, *, kind: str | None = None, band: int | None = None, correlation: str | None = None) -> np.ndarray:
        """Numbers of the tasks of a kind, band of selectivity and bin of correlation."""
        if kind is not None and kind not in KINDS:
            raise BadInput(f"kinds are {', '.join(KINDS)}, got {kind!r}")
        if correlation is not None and correlation not in CORRELATIONS:
            raise BadInput(f"bins of correlation are {', '.join(CORRELATIONS)}, got {correlation!r}")
        low, high = CORRELATIONS.get(correlation or "", (0.0, np.inf))
        return np.array(
            [
                i for i, task in enumerate(self.tasks)
                if kind in (None, task.kind) and band in (None, task.band) and low <= task.correlation < high
            ],
            dtype=np.int64,
        )  # fmt: skip

    def points(self, method: str, among: np.ndarray) -> list[Point]:
        """A method's points over some tasks, by setting; settings that skipped any of them are left out."""
        made = []
        for setting, recall in self.recall[method].items():
            own = recall[among]
            if len(among) and np.isfinite(own).all():
                seconds = float(self.micros[method][setting][among].mean()) / 1e6
                made.append(Point(method, setting, float(own.mean()), 1 / seconds))
        return made

    def pareto(self, among: np.ndarray, methods: Iterable[str] | None = None) -> list[Point]:
        """Points that no other beats in recall and speed, by recall."""
        every = [point for method in methods or self.recall for point in self.points(method, among)]
        best = [point for point in every if not any(_beats(other, point) for other in every)]
        return sorted(best, key=lambda point: point.recall)

    def qps_at(self, method: str, among: np.ndarray, recall: float = 0.9) -> float:
        """Queries per second at a recall, between the settings on either side; 0 where no setting reaches it."""
        points = self.pareto(among, [method])
        enough = [point for point in points if point.recall >= recall]
        if not enough:
            return 0.0
        at = points.index(enough[0])
        above = enough[0]
        if at == 0 or above.recall == points[at - 1].recall:
            return above.qps
        below = points[at - 1]
        part = (recall - below.recall) / (above.recall - below.recall)
        return math.exp(math.log(below.qps) + part * (math.log(above.qps) - math.log(below.qps)))

    def table(self, recall: float = 0.9, *, by: str = "band") -> list[dict[str, Any]]:
        """Queries per second of each method at a recall, a row for each band, or each band and `kind` or `correlation`.

        Bands without tasks are left out. `best recall` says how far each method came.
        """
        over: dict[str, Sequence[str | None]] = {
            "band": [None], "kind": list(KINDS), "correlation": list(CORRELATIONS),
        }  # fmt: skip
        if by not in over:
            raise BadInput(f"by is one of {', '.join(over)}, got {by!r}")
        rows = []
        for band in range(len(BANDS)):
            for part in over[by]:
                among = self.where(band=band, **({} if part is None else {by: part}))  # type: ignore[arg-type]
                if not len(among):
                    continue
                qps = {method: self.qps_at(method, among, recall) for method in self.recall}
                reached = {
                    method: max((point.recall for point in self.points(method, among)), default=0.0)
                    for method in self.recall
                }
                head = {"band": NAMES[band], "tasks": len(among)} | ({} if part is None else {by: part})
                rows.append({**head, "qps": qps, "best recall": reached})
        return rows

    def plot(self, folder: str | Path) -> list[Path]:
        """Draw recall against queries per second, a file for each kind of filter and a panel for each band.

        Raises:
            MissingExtra: matplotlib is missing.
        """
        try:
            import matplotlib as mpl
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            raise MissingExtra("plots", "plots") from None
        folder, made = Path(folder), []
        folder.mkdir(parents=True, exist_ok=True)
        for kind in KINDS:
            bands = [band for band in range(len(BANDS)) if len(self.where(kind=kind, band=band))]
            if not bands:
                continue
            with mpl.rc_context({"svg.hashsalt": kind, "svg.fonttype": "none"}):
                figure = Figure(figsize=(3.2 * len(bands), 3.2), layout="constrained")
                for panel, band in zip(np.atleast_1d(figure.subplots(1, len(bands), sharey=True)), bands):
                    among = self.where(kind=kind, band=band)
                    for method in self.recall:
                        points = self.pareto(among, [method])
                        if points:
                            own = [[point.recall for point in points], [point.qps for point in points]]
                            panel.plot(*own, label=method, marker=".", linewidth=1.2)
                    panel.set_yscale("log")
                    panel.set_title(f"{NAMES[band]} pass", fontsize=9)
                    panel.set_xlabel(f"recall@{self.k}")
                    panel.spines[["top", "right"]].set_visible(False)
                figure.axes[0].set_ylabel("queries per second")
                figure.axes[-1].legend(frameon=False, fontsize=7)
                path = folder / f"filtered-{kind}.svg"
                figure.savefig(path, metadata={"Date": None})
                made.append(path)
        return made


def run(
    bench: FilteredBench,
    methods: Iterable[Method],
    *,
    k: int = 10,
    repeats: int = 1,
    clock: Callable[[], float] = time.process_time,
    progress: bool = False,
) -> Sweep:
    """Ask every method every task, with every setting.

    Args:
        bench: tasks and truth; its k is at least this one.
        methods: to compare.
        k: neighbours to ask for.
        repeats: times of which the fastest counts, for each task.
        clock: seconds.
        progress: show a bar.
    """
    from tqdm import tqdm

    k, methods = checked_k(k), list(methods)
    if k > bench.k:
        raise BadInput(f"the bench knows {bench.k} neighbours, not {k}; build it with k={k}")
    if len({method.name for method in methods}) < len(methods):
        raise BadInput(f"two methods have one name: {', '.join(method.name for method in methods)}")
    shape = len(bench.tasks)
    recall: dict[str, dict[Any, np.ndarray]] = {}
    micros: dict[str, dict[Any, np.ndarray]] = {}
    for method in methods:
        recall[method.name] = {setting: np.full(shape, np.nan, np.float32) for setting in method.settings}
        micros[method.name] = {setting: np.full(shape, np.nan, np.float32) for setting in method.settings}
    with tqdm(total=shape, unit="task", disable=not progress, leave=False) as bar:
        for first in range(0, shape, AT_ONCE):  # in turn, so that whatever else the machine does meets all of them
            part = range(first, min(first + AT_ONCE, shape))
            masks = [bench.mask(bench.tasks[at]) for at in part]
            for method in methods:
                ready = method.prepare or (lambda mask, _: mask)
                given = [ready(mask, bench.tasks[at]) for mask, at in zip(masks, part)]
                for setting in method.settings:
                    warm = first > 0
                    for own, at in zip(given, part):
                        task = bench.tasks[at]
                        if method.skip is not None and method.skip(task.share, setting):
                            continue
                        query = bench.queries[task.query : task.query + 1]
                        if not warm:  # a first call may compile
                            method.search(query, own, k, setting)
                            warm = True
                        took = math.inf
                        for _ in range(repeats):
                            began = clock()
                            found = method.search(query, own, k, setting)
                            took = min(took, clock() - began)
                        recall[method.name][setting][at] = _recall(found, task.truth[:k])
                        micros[method.name][setting][at] = max(took, 1e-7) * 1e6
            bar.update(len(part))
    return Sweep(bench.tasks, k, recall, micros)


def _beats(a: Point, b: Point) -> bool:
    return a.recall >= b.recall and a.qps >= b.qps and (a.recall, a.qps) != (b.recall, b.qps)


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true rows that were found; there may be fewer than k."""
    return len(np.intersect1d(found[found >= 0], truth)) / max(1, len(truth))


def shown(rows: Sequence[Mapping[str, Any]], recall: float) -> str:
    """A table of `Sweep.table` for a terminal; "–" where a method does not reach the recall."""
    if not rows:
        return "no tasks"
    methods = list(rows[0]["qps"])
    parts = [name for name in ("band", "kind", "correlation") if name in rows[0]]
    lines = [[*parts, "tasks", *methods]]
    for row in rows:
        best = max(row["qps"].values())
        told = []
        for method in methods:
            qps = row["qps"][method]
            short = f"– ({row['best recall'][method]:.2f})"
            told.append(f"{qps:,.0f}{'*' if qps == best else ''}" if qps else short)
        lines.append([*(str(row[name]) for name in parts), str(row["tasks"]), *told])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(w) if i < len(parts) else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths)))
        for line in lines
    ]
    return f"queries per second at recall {recall:g} (* best; – not reached, and the recall that was)\n" + "\n".join(
        text
    )
