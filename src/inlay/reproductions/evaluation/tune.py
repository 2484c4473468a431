"""`inlay tune` beside an exhaustive grid: how near its recommendation comes, in how much of the time, and what is kept.

Three collections of the encoder in the box: SciFact with its judgments, SciFact with the same queries and no judgments,
and the Python standard library, whose passages ask for themselves. On each the whole grid is measured to the end, and
then found by halving: under two budgets, an eighth and a twenty-fourth of the bytes of float32 rows, and under none,
for the fewest bytes that keep 98 % of the quality. Both recommend by the same rule. The halving's choice is judged by
what the exhaustive run measured of it: by quality, and by bytes too where there was no budget. Time is processor time
of both, so that another program's work does not count. Then the choice under the first budget is applied to a copy and
measured.

The claim counts as shown if, everywhere, the halving's choice is within 1 % of the exhaustive one, in at most a quarter
of its time, and the applied collection's quality and bytes are within 1 % and 10 % of what was promised.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import inlay
from inlay.evaluation.frontier import Recommendation
from inlay.evaluation.retrieval_set import RetrievalSet
from inlay.evaluation.tuning import Tuning, tune
from inlay.evaluation.tuning_applied import apply
from inlay.evaluation.tuning_sample import Question, sample_collection
from inlay.evaluation.tuning_task import Task
from inlay.reproductions.result import Figure, Result

PAPER = "Optimization of embeddings storage for RAG systems (arXiv 2505.00105, 2025), the grid; halving is inlay's own"
BUDGETS: dict[str, int | None] = {"1/8 of the bytes": 8, "1/24 of the bytes": 24, "no budget": None}
FLOOR = 0.98
QUERIES = 300
NEAR, QUARTER, BYTES = 0.01, 0.25, 0.10
LEFT_OUT = ("test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__")


def run(data: Path, *, seeds: Sequence[int] = (0,), progress: bool = False) -> Result:
    """Measure three collections."""
    began = time.perf_counter()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        scifact, library = Path(scratch) / "scifact.inlay", Path(scratch) / "library.inlay"
        questions = _scifact(data, scifact, progress)
        _library(library, progress)
        for name, path, asked in (
            ("SciFact, judged", scifact, questions),
            ("SciFact, not judged", scifact, [Question(one.text) for one in questions]),
            ("standard library", library, None),
        ):
            found[name] = _measured(path, asked, seeds[0], Path(scratch) / "copy.inlay", progress)
    checks, slowest = judged(found)
    return Result(
        name="tune",
        title="`inlay tune` beside an exhaustive grid",
        room="evaluation",
        source=PAPER,
        claim="within 1 % of the exhaustive best in a quarter of its time, and the applied collection keeps it",
        paper="the grid alone; it is measured to the end there",
        metric="processor time, share of the exhaustive grid's, at most",
        baseline=Figure("exhaustive", 1.0),
        method=Figure("halving", round(slowest, 3)),
        data="SciFact; the Python standard library; encoder in the box",
        verdict="shown" if all(checks) else "partly" if any(checks) else "not shown",
        detail=_detail(found, checks),
        seconds=time.perf_counter() - began,
        seeds=tuple(seeds[:1]),
        figures=found,
    )


def judged(found: dict[str, dict[str, Any]]) -> tuple[tuple[bool, bool, bool], float]:
    """Whether the quality is near everywhere, the time short, and what was promised kept; and the longest time."""
    cases = [case for one in found.values() for case in one["budgets"].values()]
    slowest = max(case["time"] for case in cases)
    kept = all(
        abs(one["delivered"][what] / one["promised"][what] - 1) <= most
        for one in found.values()
        for what, most in (("quality", NEAR), ("bytes", BYTES))
    )
    return (min(case["share of the best"] for case in cases) >= 1 - NEAR, slowest <= QUARTER, kept), slowest


def _scifact(data: Path, path: Path, progress: bool) -> list[Question]:
    test = RetrievalSet.load(data / "scifact")
    with gzip.open(data / "scifact" / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines, inlay.open(path) as c:
        entries = map(json.loads, lines)
        c.add({"id": one["_id"], "title": one["title"], "text": one["text"]} for one in entries)
        c.embed(progress=progress)
    return [Question(text, dict(test.qrels[query])) for query, text in test.queries.items() if query in test.qrels]


def _library(path: Path, progress: bool) -> None:
    """Every module of the standard library as a document."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in sorted(root.rglob("*.py")) if not set(LEFT_OUT) & set(file.relative_to(root).parts)]
    with inlay.open(path) as c:
        c.add(
            {"id": str(file.relative_to(root)), "text": text, "kind": "code", "language": "python"}
            for file in files[::4]
            if (text := file.read_text(encoding="utf-8", errors="replace")).strip()
        )
        c.embed(progress=progress)


def _measured(path: Path, asked: list[Question] | None, seed: int, copy: Path, progress: bool) -> dict[str, Any]:
    with inlay.open(path, mode="r") as c:
        every = len(c.passages_with_vectors())
        task = sample_collection(c, asked, rows=every, queries=QUERIES, seed=seed)
    whole, spent = _timed(task, None, progress, halving=False)
    full = whole.full.nbytes
    points = {one.configuration: one for one in whole.points}
    budgets: dict[str, Any] = {}
    choices: dict[str, Recommendation] = {}
    for name, part in BUDGETS.items():
        budget = None if part is None else full // part
        best = whole.recommend(budget=budget, floor=FLOOR)
        halved, took = _timed(task, budget, progress)
        choices[name] = chosen = halved.recommend(budget=budget, floor=FLOOR)
        share = points[chosen.point.configuration].quality / max(best.point.quality, 1e-9)
        if budget is None:  # asked for the fewest bytes, it must find about as few
            share = min(share, best.point.nbytes / chosen.point.nbytes)
        budgets[name] = {
            "exhaustive": str(best.point.configuration), "halving": str(chosen.point.configuration),
            "share of the best": share, "time": took / spent, "work": halved.work / whole.work,
        }  # fmt: skip
    chosen = choices["1/8 of the bytes"]
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    with inlay.open(copy) as c:
        done = apply(c, task, chosen.point)
    return {
        "passages": every, "queries": task.queries, "measure": task.measure, "configurations": whole.configurations,
        "exhaustive_seconds": spent, "budgets": budgets,
        "promised": {"quality": chosen.point.quality, "bytes": chosen.point.nbytes, "ms": chosen.point.ms},
        "delivered": {"quality": done.quality, "bytes": done.nbytes, "ms": done.ms, "before": done.before_nbytes},
    }  # fmt: skip


def _timed(task: Task, budget: int | None, progress: bool, halving: bool = True) -> tuple[Tuning, float]:
    """What is found, and the processor's seconds."""
    began = time.process_time()
    found = tune(task, budget=budget, floor=FLOOR, halving=halving, progress=progress)
    return found, time.process_time() - began


def _detail(found: dict[str, dict[str, Any]], checks: tuple[bool, ...]) -> str:
    said = []
    for (text, bar), held in zip(
        (("within 1 % of the exhaustive best everywhere", ""), ("in a quarter of its time everywhere", ""),
         ("kept by the applied collections", " (quality within 1 %, bytes within 10 %)")), checks,
    ):  # fmt: skip
        said.append(f"{'Yes' if held else 'No'}: {text}{bar}.")
    for name, one in found.items():
        cases = "; ".join(
            f"{part}: {case['halving']} is {case['share of the best']:.1%} as good as "
            f"{case['exhaustive']}, in {case['time']:.2f} of the time and {case['work']:.2f} of the work"
            for part, case in one["budgets"].items()
        )
        promised, delivered = one["promised"], one["delivered"]
        said.append(
            f"{name} ({one['passages']:,} passages, {one['queries']} queries, {one['configurations']} configurations): "
            f"{cases}. Applied: {one['measure']} {promised['quality']:.4f} promised, {delivered['quality']:.4f} "
            f"delivered; {promised['bytes'] / 1e6:.2f} MB, {delivered['bytes'] / 1e6:.2f} MB on disk, from "
            f"{delivered['before'] / 1e6:.2f}; {promised['ms']:.2f} ms a query, {delivered['ms']:.2f} ms."
        )
    return " ".join(said)
