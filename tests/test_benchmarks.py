"""The logic of the benchmarks: what is compared, when it is refused, what is written. Nothing here judges a time."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import child, data, report, threads  # noqa: E402
from benchmarks.__main__ import NAMES, main  # noqa: E402
from benchmarks.harness import (  # noqa: E402
    Contender,
    Quality,
    Ratios,
    Row,
    UnequalQuality,
    alternate,
    compare,
    interleave,
    ratios,
)


@pytest.fixture(scope="module", autouse=True)
def collected():
    """A timing begins with a garbage collection, which is slow where other tests left many objects."""
    gc.freeze()
    yield
    gc.unfreeze()


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_ratio_above_one_means_ours_is_better_pair_by_pair():
    found = ratios([1.0, 2.0, 4.0], [3.0, 2.0, 2.0])
    assert found == Ratios(min=0.5, median=1.0, max=3.0, rounds=3)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], []), ([1.0, 2.0], [1.0])])
def test_ratios_need_pairs(ours, theirs):
    with pytest.raises(ValueError, match="pairs"):
        ratios(ours, theirs)


@pytest.mark.parametrize(("seconds_a_pair", "pairs"), [(100.0, 5), (1.0, 11), (0.001, 51)])
def test_rounds_follow_the_budget_between_least_and_most(seconds_a_pair, pairs):
    clock = Clock()
    orders = []
    for order in alternate(10.0, 5, 51, clock=clock):
        orders.append(order)
        clock.now += seconds_a_pair
    assert len(orders) == pairs
    assert len(orders) % 2 == 1
    assert orders[:3] == [(0, 1), (1, 0), (0, 1)]


def test_both_sides_run_alternately():
    calls = []
    ours, theirs = interleave(lambda: calls.append("a"), lambda: calls.append("b"), budget=0.0, least=3, shortest=0.0)
    assert len(ours) == len(theirs) == 3
    assert "".join(calls[-6:]) == "abbaab"


def test_short_calls_are_repeated_within_one_timing():
    calls = []
    seconds, _ = interleave(lambda: calls.append(1), lambda: None, budget=0.0, least=3, shortest=0.002)
    assert len(calls) > 100
    assert max(seconds) < 0.002


@pytest.mark.parametrize(
    ("quality", "ours", "peer", "fair"),
    [
        (Quality("m", 0.01), 0.700, 0.705, True),
        (Quality("m", 0.01), 0.69, 0.71, False),
        (Quality("m", 0.01), 0.73, 0.71, False),
        (Quality("m", 0.01, at_least=True), 0.73, 0.71, True),
        (Quality("m", 0.01, at_least=True), 0.69, 0.71, False),
        (Quality("m", 0.01, at_least=True), float("nan"), 0.71, False),
        (Quality("m", 0.01), 0.7, float("nan"), False),
    ],
)
def test_quality_is_equal_or_the_comparison_is_refused(quality, ours, peer, fair):
    if fair:
        quality.check(ours, peer)
    else:
        with pytest.raises(UnequalQuality, match="m of ours"):
            quality.check(ours, peer)


def test_unequal_sides_are_never_run():
    def explode() -> None:
        raise AssertionError("timed although refused")

    row = compare(
        "task", Contender("ours", explode, lambda: 0.1), Contender("peer", explode, lambda: 0.9),
        quality=Quality("recall", 0.01),
    )  # fmt: skip
    assert "recall of ours is 0.1000" in row.refused
    assert row.ratio is None
    assert row.ours is None


def test_units_of_a_row():
    sides = Contender("ours", lambda: None), Contender("peer", lambda: None)
    per_second = compare("t", *sides, per=10, unit="queries/s", budget=0.0)
    per_query = compare("t", *sides, per=10, unit="ms/query", budget=0.0)
    assert per_second.ours > 1000 > per_query.ours > 0


def test_threads_are_pinned_by_name(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.setenv(name, "9")  # so that what is there now comes back afterwards
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    threads.pin(2)
    assert {os.environ[name] for name in threads.VARIABLES} == {"2"}
    with pytest.raises(ValueError, match="at least 1"):
        threads.pin(0)


def test_a_child_reports_its_own_memory_not_its_parents():
    ballast = np.ones(60_000_000)  # 480 MB that the child must not be charged for
    result = child.run("json:loads", {"s": '{"answer": 42}'})
    assert result["answer"] == 42
    assert 1e6 < result["peak_bytes"] < ballast.nbytes / 2
    assert result["seconds"] >= 0


def test_a_child_that_fails_says_why():
    with pytest.raises(child.ChildFailed, match="JSONDecodeError"):
        child.run("json:loads", {"s": "not json"})
    with pytest.raises(child.ChildFailed, match="status 3"):
        child.wall([sys.executable, "-c", "raise SystemExit(3)"])


def _result(**changes) -> dict:
    machine = {
        "cpu": "a cpu", "cores": 2, "memory_gb": 8.0, "read_gb_per_s": 40.0, "load": 0.1, "system": "Linux",
        "python": "3.11", "threads": 1, "versions": {"numpy": "2"},
    }  # fmt: skip
    quality = {"measure": "recall@10", "ours": 1.0, "peer": 0.99}
    row = Row("scan | one", "peer", "ms", 1.5, 3.0, Ratios(1.5, 2.0, 2.5, 7), quality, {"share": {"inlay": 0.9}})
    missing = Row("scan", "absent", refused="absent is not installed\ntraceback")
    return report.as_json("flat", "Exact scan", machine, [row, missing]) | changes


def test_results_survive_the_file_and_the_table_carries_their_figures(tmp_path):
    path = report.save(_result(), tmp_path)
    assert path.name == "bench-flat.json"
    assert report.load(tmp_path) == [json.loads(json.dumps(_result()))]
    page = report.table(report.load(tmp_path))
    assert "| scan \\| one | ms | 1.5 | peer | 3 | 2.00× (1.50 to 2.50, 7 pairs) | recall@10 1.000 : 0.990 |" in page
    assert "Not measured: scan against absent: absent is not installed." in page
    assert "traceback" not in page
    assert "`python -m benchmarks flat`" in page


@pytest.mark.parametrize(
    ("value", "shown"), [(None, ""), (0.01234, "0.0123"), (12.34, "12.3"), (1234.5, "1,230"), (45_678.0, "45,700")]
)
def test_figures_have_three_digits(value, shown):
    assert report.number(value) == shown


def test_an_unknown_benchmark_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "nonsense" in capsys.readouterr().err
    assert set(NAMES) == {
        "lexical",
        "flat",
        "gather",
        "keyed_vectors",
        "end_to_end",
        "cold_start",
        "lm",
        "multi_vector",
        "sparse",
        "espn",
        "graph",
        "disk_ivf",
        "filtered",
        "binary",
        "codec_scan",
        "recomputed",
    }


def test_missing_data_say_what_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("INLAY_DATA", raising=False)
    with pytest.raises(data.DataMissing, match="INLAY_DATA"):
        data.folder()
    monkeypatch.setenv("INLAY_DATA", str(tmp_path))
    with pytest.raises(data.DataMissing):
        data.judged("scifact")


def test_generated_data_repeat_and_are_what_they_claim():
    rows = data.clustered(300, 16, clusters=5, seed=3)
    assert np.array_equal(rows, data.clustered(300, 16, clusters=5, seed=3))
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    vectors = data.hashed_vectors(["red apple", "red apple.", "blue sea"], dim=64)
    assert vectors[0] @ vectors[1] > 0.99 > abs(vectors[0] @ vectors[2])
    source = ["one two three four five six seven eight nine"]
    asked = data.spans(source, 20)
    assert all(3 <= len(query.split()) <= 8 and query in source[0] for query in asked)


def test_the_fastest_form_of_a_peer_is_chosen_for_each_batch_size():
    import time

    from benchmarks.flat import _fastest

    called = []

    def form(name: str, slow_at: int):
        def search(queries: np.ndarray) -> np.ndarray:
            called.append(name)
            time.sleep(0.02 if len(queries) == slow_at else 0)
            return queries

        return search

    search = _fastest([form("batch", slow_at=1), form("single", slow_at=4)])
    for size, best in ((1, "single"), (4, "batch")):
        search(np.zeros((size, 2)))
        called.clear()
        search(np.zeros((size, 2)))
        assert called == [best]
