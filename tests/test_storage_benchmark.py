"""The storage benchmark: every method at a budget, cells that are kept, tables with intervals, the command."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from inlay.errors import BadInput, Corrupt

torch = pytest.importorskip("torch")
metrics = pytest.importorskip("sklearn.metrics")

from inlay.cli import inlay  # noqa: E402
from inlay.clicks import Clicks, ClickSplits  # noqa: E402
from inlay.clicks import storage_benchmark as bench  # noqa: E402
from inlay.clicks.methods import METHODS, build, full_nbytes  # noqa: E402
from inlay.tables import KeySpace  # noqa: E402


@pytest.fixture(scope="module")
def splits():
    random = np.random.default_rng(0)
    sizes = (300, 150, 6)
    space = KeySpace(
        {f"f{i}": list(range(size - 1)) for i, size in enumerate(sizes)},
        {f"f{i}": np.arange(size)[::-1] for i, size in enumerate(sizes)},
    )
    ids = np.stack([random.integers(0, size, 700) for size in sizes], 1) + space.offsets
    worth = random.normal(0, 2, space.rows)[ids].sum(1)
    labels = (worth + random.normal(0, 0.3, 700) > 0).astype(np.float32)
    every = Clicks(ids, np.zeros((700, 0)), labels)
    return ClickSplits(space, *(every.take(at) for at in np.split(np.arange(700), [480, 590])), "made up")


FAST = {"epochs": 2, "batch_size": 64, "patience": 3}
SMALL = {"dhe": {"hashes": 32}}  # 1,024 hashes weigh more than half of this table


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_within_its_budget(name, splits):
    cell = bench.measure(name, splits, budget=1.0 if name == "full" else 0.5, settings=SMALL.get(name), **FAST)
    assert not cell.failed
    assert 0 < cell.share <= (1 if name == "full" else 0.5 + 1e-3)
    assert cell.nbytes == round(cell.share * full_nbytes(splits.space, 16))
    assert cell.file_nbytes > cell.nbytes
    assert cell.difference < 1e-5
    assert cell.auc == pytest.approx(metrics.roc_auc_score(splits.test.labels, cell.scores))
    assert cell.train_nbytes > 0
    assert bench.Cell.from_dict(json.loads(json.dumps(cell.to_dict()))).scores.tolist() == cell.scores.tolist()


def test_there_are_the_fourteen_the_extras_and_the_full_table():
    by_family: dict[str, set[str]] = {}
    for name, method in METHODS.items():
        by_family.setdefault(method.family, set()).add(name)
    assert by_family["ids share memory"] == {"compo", "tt", "dhe", "robe", "mgqe", "adapt", "dedup"}
    assert by_family["rows are made cheaper"] == {"int", "alpt", "mde", "autodim", "optembed", "deeplight", "autosrh"}
    assert by_family["baseline"] == {"hash", "dpq", "pep", "full"}


def test_budgets_of_bytes_are_met(splits):
    full = full_nbytes(splits.space, 16)
    for name in ("compo", "hash", "robe", "mde", "adapt", "tt"):
        sizes = [build(name, splits.space, 16, budget).nbytes for budget in (0.15, 0.3, 0.6)]
        assert all(size <= budget * full for size, budget in zip(sizes, (0.15, 0.3, 0.6)))
        assert sizes == sorted(sizes)
        assert sizes[2] > 2 * sizes[0]
    with pytest.raises(BadInput, match="no method 'x'"):
        build("x", splits.space, 16, 0.5)
    for budget in (0, 1.5, -1):
        with pytest.raises(BadInput, match="share"):
            build("hash", splits.space, 16, budget)


def test_a_budget_too_small_is_a_cell_that_says_so(splits):
    cell = bench.measure("int", splits, budget=0.1, **FAST)
    assert "too few" in cell.failed
    assert cell.scores is None


def test_cells_are_kept_and_not_made_twice(splits, tmp_path: Path, monkeypatch):
    file = tmp_path / "deep" / "cells.jsonl"
    grid = {"methods": ["hash", "full", "int"], "budgets": [0.5, 0.1], "seeds": [0, 1], "table_lrs": (1e-3, 1e-2)}
    made = []
    real = bench.measure
    monkeypatch.setattr(
        bench, "measure", lambda *a, **k: (made.append((a[0], k["seed"], k["table_lr"])), real(*a, **k))[1]
    )
    first = list(bench.run(splits, **grid, results=file, **FAST))
    assert [(c.method, c.budget, c.seed) for c in first] == [
        (name, budget, seed)
        for name, budget in (("full", 1.0), ("hash", 0.5), ("hash", 0.1), ("int", 0.5), ("int", 0.1))
        for seed in (0, 1)
    ]
    # The first seed tries every rate, the second takes the one that validation liked.
    of_full = [at for at in made if at[0] == "full"]
    assert [at[:2] for at in of_full] == [("full", 0)] * 2 + [("full", 1)]
    assert of_full[2][2] == first[0].table_lr
    made.clear()
    again = list(bench.run(splits, **grid, results=file, **FAST))
    assert not made
    assert [c.to_dict() for c in again] == [c.to_dict() for c in first]

    text = file.read_text()
    file.write_text(text[: len(text) - 50])  # the run was ended while it wrote
    again = list(bench.run(splits, **grid, results=file, **FAST))
    assert {at[:2] for at in made} == {("int", 1)}
    assert [(c.method, c.auc) for c in again] == [(c.method, c.auc) for c in first]
    assert len(bench.read_cells(file)) == len(first)
    made.clear()
    list(bench.run(splits, **{**grid, "methods": ["full"]}, results=file, **{**FAST, "epochs": 1}))
    assert made  # other training, other cells

    file.write_text('{"about": {}, "cell": {"x": 1}}\n')
    with pytest.raises(Corrupt, match="line 1"):
        bench.read_cells(file)
    assert bench.read_cells(tmp_path / "absent") == []


def test_comparisons_are_paired_and_sorted():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 200).astype(np.float32)
    cells = []
    for seed in range(3):
        good = labels * 2 + random.normal(size=200)
        for name, budget, scores in (
            ("full", 1.0, good),
            ("robe", 0.5, good + 1e-9),  # the same order
            ("hash", 0.5, good + random.normal(size=200) * 2),
            ("hash", 0.1, random.normal(size=200)),
        ):
            value = metrics.roc_auc_score(labels, scores)
            cells.append(bench.Cell(name, budget, seed, auc=value, nbytes=9, scores=scores.astype(np.float64)))
        cells.append(bench.Cell("int", 0.1, seed, failed="too few"))
    rows = bench.compare(cells, labels)
    assert [(row.method, row.budget) for row in rows] == [
        ("full", 1.0), ("robe", 0.5), ("hash", 0.5), ("hash", 0.1), ("int", 0.1),
    ]  # fmt: skip
    robe, worse = rows[1], rows[3]
    assert robe.gain == robe.gain_low == robe.gain_high == 0  # paired: the same rows, the same seeds
    assert rows[0].low < rows[0].auc < rows[0].high
    assert worse.gain_high < 0
    assert worse.gain == pytest.approx(worse.auc - rows[0].auc)
    text = bench.markdown(rows, 100)
    assert "| too few" in text or "— too few" in text
    assert text.count("\n") == len(rows) + 1


def test_the_fast_auc_is_the_usual_one():
    random = np.random.default_rng(0)
    for _ in range(20):
        labels, scores = random.integers(0, 2, 50), random.integers(0, 9, 50) / 3
        at = random.integers(0, 50, 50)
        times = np.bincount(at, minlength=50)
        found = bench._weighted_auc(times, *bench._ranked(labels, scores))
        assert found == pytest.approx(metrics.roc_auc_score(labels[at], scores[at]))


@pytest.fixture
def folder(tmp_path: Path):
    random = np.random.default_rng(0)
    lines = ["header"]
    for n in range(240):
        split = ("train", "train", "dev", "test")[n % 4]
        cells = [split, str(random.integers(2)), *["1"] * 13, *(str(random.integers(40)) for _ in range(26))]
        lines.append("\t".join(cells))
    (tmp_path / "criteo_sample").mkdir()
    with gzip.open(tmp_path / "criteo_sample" / "criteo.tsv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    return tmp_path


def test_the_command(folder: Path):
    results = folder / "cells.jsonl"
    options = ["--data", str(folder), "--methods", "full,hash,int", "--budgets", "0.3,0.1", "--seeds", "2"]
    options += ["--epochs", "1", "--results", str(results)]
    said = CliRunner().invoke(inlay, ["bench-tables", *options], catch_exceptions=False)
    assert said.exit_code == 0
    assert "120 rows to train" in said.stdout
    assert "| 0.3    | hashing" in said.stdout
    assert "too few" in said.stdout
    kept = results.read_text()
    said = CliRunner().invoke(inlay, ["bench-tables", *options, "--json"], catch_exceptions=False)
    rows = json.loads(said.stdout)
    assert {(row["method"], row["budget"]) for row in rows} == {
        ("full", 1.0), ("hash", 0.3), ("hash", 0.1), ("int", 0.3), ("int", 0.1),
    }  # fmt: skip
    assert results.read_text() == kept
    assert CliRunner().invoke(inlay, ["bench-tables", "--list"]).stdout.count("\n") == len(METHODS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "nothing"], "no method 'nothing'"),
        (["--budgets", "a"], "no list"),
        (["--budgets", "2"], "share"),
        (["--data", "/nowhere"], "does not exist"),
    ],
)
def test_the_command_refuses(folder: Path, options, said):
    every = ["--data", str(folder), "--methods", "hash", "--budgets", "0.5", "--seeds", "1"]
    every += ["--results", str(folder / "x")]
    found = CliRunner().invoke(inlay, ["bench-tables", *every, *options])
    assert found.exit_code == 2
    assert said in found.output
