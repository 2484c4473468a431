"""Compressors of embedding tables under one budget in bytes: quality, memory, and time to train and to read.

"Experimental Analysis of Large-scale Learnable Vector Storage Compression" (arXiv 2311.15578, VLDB 2024). What is
judged and timed is the compiled form, whose bytes are what the budget counts.
"""

from __future__ import annotations

import base64
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inlay.clicks.data import ClickSplits, criteo, movielens
from inlay.clicks.heads import HEADS, ClickModel
from inlay.clicks.methods import METHODS, build, check_budget, full_nbytes
from inlay.clicks.trainer import Fitted, auc, fit, logits, logloss
from inlay.errors import BadInput, Corrupt, InlayWarning

__all__ = ["Cell", "Row", "compare", "load", "markdown", "measure", "read_cells", "run"]

CHECKED = 10_000  # ids on which the compiled form is compared with the one that learnt


@dataclass
class Cell:
    """One method at one budget with one seed.

    Args:
        method: its name in `METHODS`.
        budget: share of the full table's bytes.
        seed: of everything random.
        auc: on the test part, of the compiled form.
        logloss: likewise, nats.
        valid_auc: best on the rows that decided when to stop.
        share: bytes of the compiled form over those of the full table.
        nbytes: of the compiled form.
        file_nbytes: of its file.
        train_nbytes: most bytes its table held in training; gradients and moments left out.
        train_seconds: wall time.
        lookup_ns: median time of one id's row in the compiled form, nanoseconds, in batches of 1,024 rows.
        difference: largest between rows of both forms, over the largest number, on `CHECKED` ids.
        settings: that validation chose.
        table_lr: likewise.
        failed: why there is nothing to measure; empty otherwise.
        scores: logits [n] of the test part.
    """

    method: str
    budget: float
    seed: int
    auc: float = 0.0
    logloss: float = 0.0
    valid_auc: float = 0.0
    share: float = 0.0
    nbytes: int = 0
    file_nbytes: int = 0
    train_nbytes: int = 0
    train_seconds: float = 0.0
    lookup_ns: float = 0.0
    difference: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    table_lr: float = 0.0
    failed: str = ""
    scores: np.ndarray | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, scores as base64 of float32."""
        scores, self.scores = self.scores, None
        try:
            values = asdict(self)
        finally:
            self.scores = scores
        values["scores"] = None if scores is None else base64.b64encode(scores.astype("<f4").tobytes()).decode()
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Cell:
        """What `to_dict` gave."""
        held = values.get("scores")
        scores = None if held is None else np.frombuffer(base64.b64decode(held), dtype="<f4")
        return cls(**{**values, "scores": scores})


def load(folder: str | Path) -> ClickSplits:
    """The click log of a folder: `criteo.tsv.gz` (there or in criteo_sample/), or an unpacked MovieLens."""
    folder = Path(folder)
    for place in (folder, folder / "criteo_sample"):
        if (place / "criteo.tsv.gz").is_file():
            return criteo(place)
    if not any((folder / name).is_file() for name in ("u.data", "ratings.dat")):
        raise BadInput(f"{folder} holds no click log: neither criteo.tsv.gz, nor u.data or ratings.dat of MovieLens")
    return movielens(folder)


def measure(
    method: str,
    splits: ClickSplits,
    *,
    budget: float,
    head: str = "dcn",
    dim: int = 16,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    table_lr: float = 1e-3,
    **training: Any,
) -> Cell:
    """Train one method at one budget; where it cannot become so small, the cell says so.

    Args:
        method: one of `METHODS`.
        splits: data.
        budget: share of the full table's bytes.
        head: one of `HEADS`.
        dim: width of rows.
        seed: of everything random.
        settings: of the method.
        table_lr: rate of the table.
        training: keyword arguments of `inlay.clicks.fit`.
    """
    if method not in METHODS:
        raise BadInput(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    check_budget(budget)
    cell = Cell(method, budget, seed, settings=dict(settings or {}), table_lr=table_lr)
    batch_size, epochs = training.get("batch_size", 128), training.get("epochs", 20)
    steps = epochs * -(-len(splits.train) // batch_size)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", InlayWarning)  # a search that the budget of epochs ends is no news here
        torch.manual_seed(seed)
        try:
            table = build(method, splits.space, dim, budget, batch_size=batch_size, steps=steps, **cell.settings)
        except BadInput as error:
            cell.failed = str(error)
            return cell
        model = HEADS[head](table, splits.space.num_fields, dim, splits.num_numbers)
        fitted = _train(model, splits, method, seed, {"table_lr": table_lr, **training})
    _judge(cell, fitted, splits, dim)
    return cell


def _train(model: ClickModel, splits: ClickSplits, method: str, seed: int, training: dict[str, Any]) -> Fitted:
    if method != "optembed":
        return fit(model, splits, seed=seed, **training)
    from inlay.clicks.opt_embed_search import opt_embed

    return opt_embed(model, splits, generations=10, seed=seed, **training).fitted


def _judge(cell: Cell, fitted: Fitted, splits: ClickSplits, dim: int) -> None:
    model = fitted.model
    learnt: Any = model.table
    compiled = learnt.compiled()
    ids = torch.from_numpy(np.random.default_rng(cell.seed).permutation(splits.space.rows)[:CHECKED])
    before, after = learnt.materialize(ids), compiled.materialize(ids)
    cell.difference = float((before - after).abs().max() / before.abs().max().clamp(min=1e-30))
    model.table = compiled
    scores = logits(model, splits.test)
    cell.scores = scores
    cell.auc, cell.logloss = auc(splits.test.labels, scores), logloss(splits.test.labels, scores)
    cell.valid_auc, cell.train_seconds, cell.train_nbytes = fitted.valid_auc, fitted.seconds, fitted.train_nbytes
    cell.nbytes = compiled.nbytes
    cell.share = cell.nbytes / full_nbytes(splits.space, dim)
    with tempfile.TemporaryDirectory() as folder:
        cell.file_nbytes = compiled.save(Path(folder) / "table").stat().st_size
    cell.lookup_ns = _lookup_ns(compiled, splits)


@torch.no_grad()
def _lookup_ns(compiled: Any, splits: ClickSplits, batch: int = 1024, repeats: int = 5) -> float:
    ids = torch.from_numpy(np.resize(splits.test.ids, (batch, splits.space.num_fields)))
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        compiled(ids)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:]) / ids.numel() * 1e9


def run(
    splits: ClickSplits,
    methods: Sequence[str] = tuple(METHODS),
    budgets: Sequence[float] = (0.5, 0.25, 0.1, 0.01),
    *,
    head: str = "dcn",
    dim: int = 16,
    seeds: Sequence[int] = (0, 1, 2),
    table_lrs: Sequence[float] = (1e-3, 4e-3),
    results: str | Path | None = None,
    progress: bool = False,
    **training: Any,
) -> Iterator[Cell]:
    """Cells of a grid, one after another; each is kept as it is finished, and none is made twice.

    The rate of the table, and settings where a method has several to try, are chosen for every method on validation,
    with the first seed at the first of the budgets that it fits into; other seeds and budgets take what was chosen. The
    full table is there at whatever budgets, once.

    Args:
        splits: data.
        methods: names in `METHODS`.
        budgets: shares of the full table's bytes.
        head: one of `HEADS`.
        dim: width of rows.
        seeds: of everything random.
        table_lrs: rates to choose from.
        results: file of finished cells, one JSON object a line; None keeps none.
        progress: show a bar.
        training: keyword arguments of `inlay.clicks.fit`.
    """
    from tqdm import tqdm

    for name in methods:
        if name not in METHODS:
            raise BadInput(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    for budget in budgets:
        check_budget(budget)
    if head not in HEADS:
        raise BadInput(f"there is no head {head!r}; there are {', '.join(HEADS)}")
    if not seeds or not table_lrs:
        raise BadInput("give at least one seed and one rate in table_lrs")
    places = [(name, budget) for name in methods if name != "full" for budget in budgets]
    if "full" in methods:
        places.insert(0, ("full", 1.0))
    about = {"data": splits.name, "train": len(splits.train), "head": head, "dim": dim, "training": training}
    about["table_lrs"] = list(table_lrs)
    kept = {} if results is None else {(c.method, c.budget, c.seed): c for c in read_cells(results, about)}
    with tqdm(total=len(places) * len(seeds), unit="cell", disable=not progress) as bar:
        best: dict[str, Cell] = {}
        for name, budget in places:
            for seed in seeds:
                bar.set_description(f"{name} at {budget:g}")
                cell = kept.get((name, budget, seed))
                if cell is None:
                    tries: Iterable[tuple[dict[str, Any], float]]
                    chosen = best.get(name)
                    if chosen is None:
                        tries = [(settings, lr) for settings in METHODS[name].tries for lr in table_lrs]
                    else:
                        tries = [(chosen.settings, chosen.table_lr)]
                    made = [
                        measure(
                            name, splits, budget=budget, head=head, dim=dim, seed=seed, settings=settings,
                            table_lr=lr, **training,
                        )
                        for settings, lr in tries
                    ]  # fmt: skip
                    cell = max(made, key=lambda c: (not c.failed, c.valid_auc))
                    if results is not None:
                        _append(Path(results), about, cell)
                if not cell.failed:
                    best.setdefault(name, cell)
                bar.update(1)
                yield cell


def _append(path: Path, about: dict[str, Any], cell: Cell) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = not path.exists() or not path.stat().st_size or path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if whole else "\n") + json.dumps({"about": about, "cell": cell.to_dict()}) + "\n")


def read_cells(path: str | Path, about: dict[str, Any] | None = None) -> list[Cell]:
    """Cells that a file keeps, all or those of one grid. A last line that was cut short is left out."""
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    cells = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            held = json.loads(line)
            if about is None or held["about"] == json.loads(json.dumps(about)):
                cells.append(Cell.from_dict(held["cell"]))
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, json.JSONDecodeError) and not line.endswith("}"):
                continue  # a run was ended while it wrote
            raise Corrupt(f"line {number} of {path} is no cell ({error!r}); move the file away") from None
    return cells


@dataclass
class Row:
    """A method at a budget, over its seeds.

    Args:
        method: name.
        budget: share that was allowed.
        auc: mean over the seeds.
        low: of the 95% interval, by resampling seeds and test rows.
        high: likewise.
        gain: mean difference to the full table, seed by seed; NaN without a full table.
        gain_low: of its 95% interval.
        gain_high: likewise.
        share: bytes over the full table's.
        nbytes: of the compiled form.
        train_nbytes: in training.
        train_seconds: median.
        lookup_ns: median.
        failed: why there is nothing; empty otherwise.
    """

    method: str
    budget: float
    auc: float = np.nan
    low: float = np.nan
    high: float = np.nan
    gain: float = np.nan
    gain_low: float = np.nan
    gain_high: float = np.nan
    share: float = np.nan
    nbytes: int = 0
    train_nbytes: int = 0
    train_seconds: float = np.nan
    lookup_ns: float = np.nan
    failed: str = ""


def compare(cells: Iterable[Cell], labels: np.ndarray, *, resamples: int = 300, seed: int = 0) -> list[Row]:
    """Rows of the table: by budget, from the largest, and by AUC; intervals by a bootstrap over seeds and test rows.

    Args:
        cells: of one grid.
        labels: of the test part.
        resamples: of the bootstrap. Every method sees the same ones, so that differences are paired.
        seed: of them.
    """
    groups: dict[tuple[str, float], dict[int, Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.method, cell.budget), {})[cell.seed] = cell
    seeds = sorted({seed for of in groups.values() for seed in of})
    random = np.random.default_rng(seed)
    n = len(labels)
    draws = []  # how often each test row was drawn, and which seeds
    for _ in range(resamples):
        times = np.bincount(random.integers(0, n, n), minlength=n).astype(np.float32)
        draws.append((times, random.integers(0, len(seeds), len(seeds))))
    draws = [(times, picked) for times, picked in draws if 0 < times @ labels < n]
    full = next((of for (name, _), of in groups.items() if name == "full"), None)
    full_drawn = None if full is None else _drawn(full, seeds, labels, draws)
    rows = []
    for (name, budget), of in groups.items():
        good = [cell for cell in of.values() if not cell.failed]
        if not good:
            rows.append(Row(name, budget, failed=next(iter(of.values())).failed))
            continue
        drawn = _drawn(of, seeds, labels, draws)
        row = Row(
            name, budget, float(np.mean([c.auc for c in good])), *_interval(drawn), share=good[0].share,
            nbytes=good[0].nbytes, train_nbytes=max(c.train_nbytes for c in good),
            train_seconds=statistics.median(c.train_seconds for c in good),
            lookup_ns=statistics.median(c.lookup_ns for c in good),
        )  # fmt: skip
        if full is not None and full_drawn is not None:
            row.gain = row.auc - float(np.mean([c.auc for c in full.values()]))
            row.gain_low, row.gain_high = _interval(drawn - full_drawn)
        rows.append(row)
    return sorted(rows, key=lambda row: (-row.budget, bool(row.failed), -row.auc if row.auc == row.auc else 0.0))


def _drawn(of: dict[int, Cell], seeds: list[int], labels: np.ndarray, draws: list[Any]) -> np.ndarray:
    """Mean AUC of each resample."""
    ranked = [_ranked(labels, of[s].scores) if s in of and of[s].scores is not None else None for s in seeds]
    found = []
    for times, picked in draws:
        one = [_weighted_auc(times, *held) for held in (ranked[s] for s in picked) if held is not None]
        found.append(np.mean(one) if one else np.nan)
    return np.array(found)


def _ranked(labels: np.ndarray, scores: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows by rising score, their labels, and where each run of equal scores begins."""
    assert scores is not None
    order = np.argsort(scores, kind="stable")
    return order, labels[order], np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])


def _weighted_auc(times: np.ndarray, order: np.ndarray, labels: np.ndarray, runs: np.ndarray) -> float:
    """AUC of rows that count so many times: Mann and Whitney's U over runs of ties. A bootstrap has no time to sort."""
    weight = times[order].astype(np.float64)
    clicked = np.add.reduceat(weight * labels, runs)
    other = np.add.reduceat(weight * (1 - labels), runs)
    below = np.cumsum(other) - other / 2
    return float(clicked @ below / (clicked.sum() * other.sum()))


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def markdown(rows: Sequence[Row], full: int) -> str:
    """The rows as an aligned table; `full` is the full table's bytes."""
    head = ["budget", "method", "AUC", "95% interval", "− full", "95% interval", "bytes", "of full", "in training"]
    head += ["train s", "ns an id"]
    lines = []
    for row in rows:
        if row.failed:
            lines.append([f"{row.budget:g}", METHODS[row.method].title, "—", row.failed, *[""] * 7])
            continue
        gain = ["", ""] if row.method == "full" or row.gain != row.gain else [
            f"{row.gain:+.4f}", f"{row.gain_low:+.4f} – {row.gain_high:+.4f}"]  # fmt: skip
        lines.append([
            f"{row.budget:g}", METHODS[row.method].title, f"{row.auc:.4f}", f"{row.low:.4f} – {row.high:.4f}", *gain,
            f"{row.nbytes:,}", f"{row.share:.3f}", f"{row.train_nbytes / full:.2f}×", f"{row.train_seconds:.1f}",
            f"{row.lookup_ns:.0f}",
        ])  # fmt: skip
    fitting = [head, *(line for line in lines if line[2] != "—")]
    widths = [max(len(line[c]) for line in fitting) for c in range(len(head))]
    table = [head, ["-" * width for width in widths], *lines]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        if line[2] != "—"
        else f"| {line[0].ljust(widths[0])} | {line[1].ljust(widths[1])} | — {line[3]} |"
        for line in table
    )
