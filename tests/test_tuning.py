"""`inlay tune`: the frontier of quality, bytes and latency, found by halving."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.evaluation.frontier import Point, frontier, recommend, share_kept
from inlay.evaluation.measures import Estimate
from inlay.evaluation.tuning import tune
from inlay.evaluation.tuning_figure import draw_tuning
from inlay.evaluation.tuning_grid import grid
from inlay.evaluation.tuning_task import Task, TunedSpace
from inlay.indexes.configuration import Configuration
from inlay.indexes.shelf import Shelf


def rows_of(n: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    """Rows in clusters, whose variance falls from axis to axis."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((20, dim))
    scale = np.linspace(1.5, 0.2, dim)
    return ((centres[random.integers(0, 20, n)] + 0.7 * random.standard_normal((n, dim))) * scale).astype(np.float32)


def task_of(n: int = 600, q: int = 80, **more: object) -> Task:
    rows = rows_of(n + q)
    return Task({"": TunedSpace(rows[:n], rows[n:])}, **more)  # type: ignore[arg-type]


def point(name: str, nbytes: int, ms: float, share: float) -> Point:
    return Point(Configuration("", name), np.array([share] * 4), nbytes, ms, Estimate(share, share, share))


# -- the grid ---------------------------------------------------------------------------------------------------------


def test_grid_has_each_axis_and_full_precision_first():
    found = grid(384, 20_000, graphs=True)
    assert found[0].full
    assert len(set(found)) == len(found)
    assert {one.reducer for one in found} == {"", "pca:288", "pca:192", "pca:96", "truncate:192", "truncate:96"}
    assert any(one.index == "graph" for one in found)
    assert any(one.candidates and one.index == "graph" for one in found)
    assert any(one.candidates and one.index == "scan" for one in found)
    assert not any(one.index == "graph" or "pq" in one.codec for one in grid(384, 100))


@pytest.mark.parametrize("bad", [(0, 10), (8, 0), (True, 5), (8.0, 5)])
def test_grid_refuses(bad):
    with pytest.raises(BadInput):
        grid(*bad)


def test_bytes_are_those_of_everything_a_query_needs():
    rows = rows_of(300, 32)
    shelf = Shelf(rows, "cosine")
    assert shelf.made(Configuration("", "float32")).nbytes(1000) == 1000 * (4 * 32 + 4)  # a cosine needs lengths
    reduced = shelf.made(Configuration("pca:16", "int8"))
    assert reduced.fixed_nbytes == 4 * (32 * 16 + 32)  # axes and mean
    first, fine = Configuration("", "signs:mean"), Configuration("", "float16")
    both = shelf.made(replace(first, candidates=50, fine="float16"))
    assert both.nbytes(1000) == shelf.made(first).nbytes(1000) + shelf.made(fine).nbytes(1000)
    assert Shelf(rows, "dot").made(Configuration("", "float32")).nbytes(10) == 10 * 4 * 32


def test_a_second_stage_orders_what_the_first_finds():
    rows = rows_of(300, 32)
    queries = rows_of(10, 32, seed=1)
    shelf = Shelf(rows, "cosine")
    full = shelf.made(Configuration("", "float32")).search
    all_again = shelf.made(Configuration("", "signs:mean", candidates=300, fine="float16")).search
    for query in queries:
        assert len(set(full(query, 10)) & set(all_again(query, 10))) >= 9  # equal up to rounding
        few = shelf.made(Configuration("", "signs:mean", candidates=20, fine="float16")).search(query, 10)
        assert set(few) <= set(shelf.made(Configuration("", "signs:mean")).search(query, 20))


def test_a_graph_counts_its_links_and_the_map():
    pytest.importorskip("numba")
    shelf = Shelf(rows_of(400, 32), "cosine")
    made = shelf.made(Configuration("pca:16", "float16", "graph", 64))
    assert made.row_nbytes > 16 * 2 + 16 * 4
    assert made.fixed_nbytes == 4 * (32 * 16 + 32)
    assert len(set(made.search(rows_of(1, 32, seed=2)[0], 10).tolist())) == 10


# -- quality ----------------------------------------------------------------------------------------------------------


def test_agreement_is_that_of_brute_force_and_ties_count():
    task = task_of(200, 20)
    own = task.spaces[""]
    unit = own.rows / np.linalg.norm(own.rows, axis=1, keepdims=True)
    truth = np.argsort(-(own.queries @ unit.T), axis=1)
    assert (task.quality("", list(truth[:, :10])) == 1).all()
    assert task.quality("", list(truth[:, 5:15])).tolist() == [0.5] * 20
    twins = Task({"": TunedSpace(np.ones((30, 4), np.float32), np.ones((2, 4), np.float32))})
    assert (twins.quality("", [np.arange(20, 30)] * 2) == 1).all()


def test_the_passage_that_asks_is_no_answer():
    rows = rows_of(50)
    task = Task({"": TunedSpace(rows, rows[:5])}, own=np.arange(5))
    truth = np.argsort(-(rows[:5] @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T), axis=1)
    assert task.depth == 11
    assert (task.quality("", list(truth[:, :11])) == 1).all()


def test_judged_quality_is_the_ndcg_of_documents():
    rows = rows_of(6)
    task = Task(
        {"": TunedSpace(rows, rows[:2])}, documents=["a", "a", "b", "c", "d", "e"], judged=[{"b": 1}, {"c": 1, "x": 1}]
    )
    # Document a has two passages and counts once, so b is second.
    values = task.quality("", [np.array([0, 1, 2]), np.array([3, 4])])
    assert values[0] == pytest.approx(1 / np.log2(3))
    assert values[1] == pytest.approx(1 / (1 + 1 / np.log2(3)))


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 120), queries=st.integers(1, 30), seed=st.integers(0, 5))
def test_a_cut_keeps_what_its_queries_are_judged_by(rows, queries, seed):
    every = rows_of(130)
    judged = [{str(i): 1, str(i + 40): 2} for i in range(30)]
    task = Task({"": TunedSpace(every[:100], every[100:])}, judged=judged, own=np.arange(30), seed=seed)
    cut = task.cut(rows, queries)
    assert cut.queries == (min(queries, 30) if rows < 100 or queries < 30 else 30)
    assert all(set(grades) <= set(cut.documents or map(str, range(100))) for grades in cut.judged)
    for query, place in zip(cut.spaces[""].queries, cut.own):
        asked = int(np.flatnonzero((every[100:] == query).all(axis=1))[0])
        assert (cut.spaces[""].rows[place] == every[asked]).all()
    assert cut.total == 100


@pytest.mark.parametrize(
    "bad",
    [
        {"spaces": {}},
        {"metric": "l2"},
        {"k": 0},
        {"documents": ["a"]},
        {"judged": [{}]},
        {"judged": [{"nowhere": 1}] * 80},
        {"own": np.zeros(3, np.int64)},
        {"spaces": {"": TunedSpace(np.zeros((5, 3), np.float32), np.ones((2, 3), np.float32))}},
        {"spaces": {"": TunedSpace(np.full((5, 3), np.nan, np.float32), np.ones((2, 3), np.float32))}},
        {"spaces": {"": TunedSpace(np.ones((5, 3), np.float32), np.ones((2, 4), np.float32))}},
        {"spaces": dict.fromkeys("ab", TunedSpace(np.ones((5, 3), np.float32), np.ones((2, 3), np.float32)))},
    ],
)
def test_a_task_refuses(bad):
    with pytest.raises(BadInput):
        replace(task_of(), **bad)


# -- the frontier and the recommendation ------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.floats(1, 100), st.sampled_from([0.5, 0.8, 0.9, 1.0])), min_size=1, max_size=12
    )
)
def test_what_is_off_the_frontier_is_beaten_and_more_bytes_never_recommend_less(parts):
    points = [point(f"c{i}", *part) for i, part in enumerate(parts)]
    edge = frontier(points)
    assert max(one.quality for one in edge) == max(one.quality for one in points)
    assert min(one.nbytes for one in edge) == min(one.nbytes for one in points)
    bought = [recommend(points, budget=budget, floor=0.01).point for budget in range(1, 21)]
    fits = [one.share.mean for budget, one in enumerate(bought, start=1) if one.nbytes <= budget]
    assert fits == sorted(fits)


def test_bounds_choose():
    points = [point("small", 10, 1, 0.7), point("middle", 40, 2, 0.985), point("large", 400, 0.5, 1.0)]
    assert recommend(points).codec == "middle"  # the fewest bytes that keep the floor
    assert recommend(points, budget=1000).codec == "large"  # the best that can be paid
    assert recommend(points, budget=1000, latency_ms=0.6).codec == "large"
    assert recommend(points, latency_ms=0.6).codec == "large"
    short = recommend(points, budget=20)
    assert (short.codec, short.ok, short.met) == ("small", False, {"budget": True, "floor": False})
    assert "middle" in " ".join(short.why)
    none = recommend(points, budget=5)
    assert not none.met["budget"]
    assert "nearest takes 10 bytes" in none.why[0]
    slow = recommend(points, latency_ms=0.1)
    assert not slow.met["latency"]
    assert "0.50 ms" in slow.why[0]
    assert json.dumps(none.to_dict())


@pytest.mark.parametrize(
    "bad", [{"budget": 0}, {"budget": -5}, {"latency_ms": float("nan")}, {"floor": 0}, {"floor": 2}]
)
def test_bounds_refuse(bad):
    with pytest.raises(BadInput):
        recommend([point("a", 1, 1, 1)], **bad)
    with pytest.raises(BadInput):
        recommend([])


def test_share_is_paired():
    random = np.random.default_rng(0)
    full = random.random(200)
    mean, low, high = share_kept(0.9 * full, full)
    assert (mean, low, high) == pytest.approx((0.9, 0.9, 0.9))  # the same loss at every query: nothing is unsure
    assert share_kept(np.zeros(3), np.zeros(3)).mean == 1


# -- halving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [None, 12_000, 60_000])
def test_halving_finds_what_the_whole_grid_finds_at_a_quarter_of_the_work(budget):
    task = task_of(1500, 120)
    ways = [one for one in grid(32, 900) if one.candidates < 200]
    whole = tune(task, ways, halving=False)
    some = tune(task, ways, budget=budget)
    assert some.work <= whole.work / 4
    assert whole.rounds[-1].measured == len(ways)
    ours, best = some.recommend(budget=budget), whole.recommend(budget=budget)
    assert ours.met == best.met
    if budget is not None:
        assert ours.point.quality >= 0.99 * best.point.quality
    else:
        assert ours.point.nbytes <= 1.3 * best.point.nbytes
    assert ours.point.share.low <= ours.point.share.mean <= ours.point.share.high
    assert some.full.share.mean == 1
    for one in some.points:  # what was measured to the end is what the grid measured
        same = next(other for other in whole.points if other.configuration == one.configuration)
        assert same.nbytes == one.nbytes
        assert (same.values == one.values).all()


def test_few_graphs_are_built_again():
    pytest.importorskip("numba")
    ways = grid(32, 1500)
    assert len({(one.reducer, one.codec) for one in ways if one.index == "graph"}) > 4
    found = tune(task_of(1500, 80), ways)
    built = {(one.configuration.reducer, one.configuration.codec) for one in found.points
             if one.configuration.index == "graph"}  # fmt: skip
    assert 1 <= len(built) <= 3
    assert len({one.configuration.index for one in found.points}) == 2  # and scans compete with them


def test_no_way_takes_fewer_bytes_than_its_codes_alone():
    task = task_of(1500, 20)
    found = tune(task, grid(32, 1500), halving=False)
    assert len(found.points) > 40
    for one in found.points:
        assert 0 < task.total * one.configuration.least_nbytes(32) <= one.nbytes
    assert Configuration("autoencoder:8", "int8").least_nbytes(32) >= 0  # whatever is known before it has learnt


def test_what_the_budget_cannot_pay_is_not_measured():
    task = task_of(1500, 80)
    budget = 1500 * 40
    found = tune(task, grid(32, 1500), budget=budget)
    dear = [one for one in grid(32, 1500) if not one.full and 1500 * one.least_nbytes(32) > budget]
    assert found.configurations == len(grid(32, 1500))
    assert found.rounds[0].measured <= len(grid(32, 1500)) - len(dear)
    assert not {one.configuration for one in found.points} & set(dear)
    assert any(f"{len(dear)} ways" in line for line in found.remarks)
    assert found.full.share.mean == 1
    nothing = tune(task, grid(32, 1500), budget=100)  # then the smallest way is told, so all are tried
    assert not any("ways take more" in line for line in nothing.remarks)
    assert not nothing.recommend(budget=100).met["budget"]


def test_a_sample_promises_bytes_of_the_whole():
    task = task_of(300, 10, total=3000)
    found = tune(task, [Configuration("", "int8"), Configuration("pca:16", "int8")])
    full = found.full
    assert full.nbytes == 3000 * (4 * 32 + 4)
    assert full.projected_ms > full.latency_ms
    assert any("3,000" in line for line in found.remarks)


@pytest.mark.parametrize("kind", ["one", "two", "one query", "zeros", "constant", "equal", "narrow"])
def test_odd_collections_have_an_answer(kind):
    rows, queries = rows_of(40), rows_of(6, seed=3)
    if kind == "one":
        rows = rows[:1]
    elif kind == "two":
        rows = rows[:2]
    elif kind == "one query":
        queries = queries[:1]
    elif kind == "zeros":
        rows[::3] = 0
    elif kind == "constant":
        rows[:, 5:20] = 0.25
    elif kind == "equal":
        rows[:] = rows[0]
    else:
        rows, queries = np.abs(rows[:, :1]), np.abs(queries[:, :1])
    found = tune(Task({"": TunedSpace(rows, queries)}))
    chosen = found.recommend()
    assert chosen.ok
    assert np.isfinite([chosen.point.quality, chosen.point.ms]).all()
    if kind in ("one", "one query"):
        assert any("There is one" in line for line in found.remarks)


def test_tune_refuses():
    with pytest.raises(BadInput, match="margin"):
        tune(task_of(), margin=-1)
    with pytest.raises(BadInput, match="no rows of encoder"):
        tune(task_of(), [Configuration("", "int8", encoder="other")])
    left = tune(task_of(50, 5), [Configuration("pca:400", "int8")])
    assert "pca:400" in next(iter(left.left_out))


def test_encoders_are_compared_by_judgments():
    rows = rows_of(120)
    own = {"good": TunedSpace(rows[:100], rows[:20]), "bad": TunedSpace(rows[:100], rows_of(20, seed=9), 2.0)}
    task = Task(own, judged=[{str(i): 1} for i in range(20)])
    found = tune(task, [Configuration("", code, encoder=name) for name in own for code in ("float32", "int8")])
    assert found.recommend().point.configuration.encoder == "good"
    worst = next(one for one in found.points if one.configuration == Configuration("", "int8", encoder="bad"))
    assert worst.latency_ms > 2
    assert worst.share.mean < 0.9


def test_a_figure_needs_a_name_that_can_be_drawn(tmp_path):
    found = tune(task_of(50, 5), [Configuration("", "int8")])
    with pytest.raises(BadInput, match="png"):
        draw_tuning(found, tmp_path / "edge.txt")
    with pytest.raises(BadInput, match="no folder"):
        draw_tuning(found, tmp_path / "none" / "edge.png")
