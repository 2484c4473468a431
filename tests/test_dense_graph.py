"""DenseGraph against brute force: exact where a walk sees everything, in part elsewhere, by every way of filtering."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.indexes.dense_graph import DenseGraph
from inlay.indexes.graph_growth import levels_of
from inlay.kernels.dense_graph import NONE
from inlay.types import Index

pytest.importorskip("numba")

SMALL = {"connectivity": 4, "expansion_add": 20}
ROUTES = ("scan", "lists", "through", "two-hop", "post")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def clustered(rng, n=400, dim=16, clusters=12):
    centres = rng.standard_normal((clusters, dim))
    return (centres[rng.integers(clusters, size=n)] + 0.5 * rng.standard_normal((n, dim))).astype(np.float32)


def index_of(rows, **settings):
    index = DenseGraph(rows.shape[1], **settings)
    index.add(rows)
    return index


def brute(rows, queries, k, metric="cosine", allow=None):
    """Scores and ids of the k nearest in float64, lower ids first."""
    a, b = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "cosine":
        a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30) for x in (a, b))
    scores = -((a[:, None] - b[None]) ** 2).sum(2) if metric == "l2" else a @ b.T
    if allow is not None:
        scores = np.where(allow[None], scores, -np.inf)
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, ids, axis=1), ids


def recall(found, truth):
    wanted = [t[t >= 0] for t in truth]
    return sum(np.isin(t, f).sum() for t, f in zip(wanted, found)) / sum(map(len, wanted))


def same_graph(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a._trimmed().values(), b._trimmed().values(), strict=True))


@st.composite
def problems(draw):
    n, d, q = draw(st.integers(0, 30)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, queries = (rng.integers(-3, 4, (count, d)).astype(np.float32) for count in (n, q))
    allow = rng.random(n) < rng.random() if draw(st.booleans()) else None
    metric = draw(st.sampled_from(["cosine", "dot", "l2"]))
    route = draw(st.sampled_from([None, *ROUTES])) if allow is not None else None
    return rows, queries, allow, metric, draw(st.integers(1, n + 3)), route


@given(problems())
@settings(deadline=None, max_examples=80)
def test_scores_are_the_best_where_all_rows_are_linked(problem):
    """With links enough for all, a walk as wide as the index misses nothing: twins, ties, zeros, k > n, no row."""
    rows, queries, allow, metric, k, route = problem
    index = index_of(rows, metric=metric, connectivity=32, expansion_add=64)
    found = index.search(queries, k, allow=allow, ef=64, route=route)
    truth, _ = brute(rows, queries, k, metric, allow)
    many = len(rows) if allow is None else int(allow.sum())
    wide = min(k, many)
    assert found.ids.shape == found.scores.shape == (len(queries), k)
    assert (found.ids[:, wide:] == -1).all()
    assert np.isneginf(found.scores[:, wide:]).all()
    assert (found.ids[:, :wide] >= 0).all()
    assert all(len(set(ids[:wide].tolist())) == wide for ids in found.ids)
    if allow is not None and wide:
        assert allow[found.ids[:, :wide]].all()
    # Of nearly equal scores by codes either may be refined, but what is found must be as near.
    assert found.scores[:, :wide] == pytest.approx(truth[:, :wide], abs=1e-5 if k * 3 >= many else 0.2, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_finds_most_and_scores_few(rng, metric, dtype):
    rows = clustered(rng, 3000, 24, 40)
    queries = rows[rng.integers(3000, size=50)] + 0.2 * rng.standard_normal((50, 24)).astype(np.float32)
    if metric == "dot":  # rows of similar length
        rows, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, queries))
    index = index_of(rows, metric=metric, dtype=dtype, connectivity=8, expansion_add=64)
    scores, ids = brute(rows, queries, 10, metric)
    wide, narrow = index.search(queries, 10, ef=64), index.search(queries, 10, ef=10)
    assert recall(wide.ids, ids) > (0.93 if dtype == "int8" else 0.97)
    assert recall(narrow.ids, ids) <= recall(wide.ids, ids)
    assert index.scored(queries, 10, ef=64) < 0.4 * len(rows)
    assert (np.diff(wide.scores, axis=1) <= 0).all()
    exact = np.abs(scores).max() * {"float32": 1e-5, "float16": 2e-3, "int8": 3e-2}[dtype]
    hits = wide.ids == ids
    assert hits.mean() > 0.8
    assert np.abs(wide.scores - scores)[hits].max() < exact


@pytest.mark.parametrize("share", [0.9, 0.4, 0.1, 0.02, 0.002, 0.0])
@pytest.mark.parametrize("route", [None, *ROUTES])
def test_a_mask_holds_by_every_way(rng, share, route, filtered_index):
    index, rows, queries = filtered_index
    allow = rng.random(len(rows)) < share
    found = index.search(queries, 10, allow=allow, route=route, ef=30 if route == "lists" else 64)
    _, ids = brute(rows, queries, 10, allow=allow)
    wide = min(10, int(allow.sum()))
    assert ((found.ids >= 0).sum(axis=1) == wide).all()
    if wide:
        assert allow[found.ids[:, :wide]].all()
        assert recall(found.ids, ids[:, :wide]) > (0.6 if share < 0.05 and route == "two-hop" else 0.9)


@pytest.fixture(scope="module")
def filtered_index():
    rng = np.random.default_rng(5)
    rows = clustered(rng, 3000, 16, 30)
    return index_of(rows, connectivity=8, expansion_add=64), rows, rows[:25] + 0.1


def test_rows_one_by_one_make_the_same_graph(rng):
    rows = clustered(rng, 150)
    whole, parts = index_of(rows, **SMALL), DenseGraph(16, **SMALL)
    for low, high in ((0, 1), (1, 30), (30, 30), (30, 75), (75, 150)):
        parts.add(rows[low:high])
        assert len(parts) == high
    assert same_graph(whole, parts)
    queries = clustered(rng, 10)
    assert np.array_equal(whole.search(queries, 5).ids, parts.search(queries, 5).ids)


def test_an_order_of_insertion_keeps_the_ids(rng):
    rows = clustered(rng, 300)
    index = DenseGraph(16, **SMALL)
    index.add(rows, order=rng.permutation(300))
    assert not same_graph(index, index_of(rows, **SMALL))
    assert recall(index.search(rows, 1, ef=64).ids, np.arange(300)[:, None]) > 0.98
    for order in (np.zeros(300, int), np.arange(299)):
        with pytest.raises(BadInput, match="order must name each of the 300 rows once"):
            DenseGraph(16).add(rows, order=order)


def test_twins_are_all_found_lower_ids_first():
    rows = np.zeros((90, 4), dtype=np.float32)
    rows[:40, 0], rows[40:, 1] = 1, 2
    index = index_of(rows, **SMALL)
    allow = np.arange(90) % 3 == 0
    for mask in (None, allow):
        for route in ROUTES if mask is not None else (None,):
            found = index.search(rows[[0, 89]], 25, ef=64, allow=mask, route=route)
            assert found.ids.tolist() == brute(rows, rows[[0, 89]], 25, allow=mask)[1].tolist(), route


def test_one_row_and_none():
    index = DenseGraph(3)
    assert index.search(np.ones((2, 3)), 2).ids.tolist() == [[-1, -1]] * 2
    assert index.search(np.ones((2, 3)), 2, allow=np.zeros(0, bool)).ids.tolist() == [[-1, -1]] * 2
    index.add(np.ones((0, 3)))
    index.add(np.ones(3))
    for route in (None, *ROUTES):
        assert index.search(np.ones((1, 3)), 2, allow=np.ones(1, bool), route=route).ids.tolist() == [[0, -1]]
        assert index.search(np.ones((1, 3)), 2, allow=np.zeros(1, bool), route=route).ids.tolist() == [[-1, -1]]
    assert index.search(np.ones((0, 3)), 2, allow=np.ones(1, bool)).ids.shape == (0, 2)


def test_links_are_of_others_and_bounded(rng):
    rows, counts = clustered(rng, 400), []
    for keep_pruned in (False, True):
        links = index_of(rows, keep_pruned=keep_pruned, **SMALL)._graph.links[:400]
        for row, its in enumerate(links):
            own = its[its != NONE]
            assert len(set(own.tolist())) == len(own) <= 8
            assert row not in own
            assert (its[len(own) :] == NONE).all()
        counts.append((links != NONE).sum())
    assert counts[0] < counts[1]


def test_levels_are_drawn_by_the_seed():
    levels = levels_of(0, 200_000, 16, 0)
    for level in range(3):
        assert (levels >= level).mean() == pytest.approx(16.0**-level, rel=0.15)
    assert np.array_equal(levels[1000:2000], levels_of(1000, 2000, 16, 0))
    assert not np.array_equal(levels, levels_of(0, 200_000, 16, 1))


def test_a_recall_that_was_calibrated_is_reached(rng):
    rows = clustered(rng, 3000, 24, 40)
    queries = rows[:60] + 0.3 * rng.standard_normal((60, 24)).astype(np.float32)
    index = index_of(rows, **SMALL)
    table = index.calibrate(queries, 10, recalls=(0.8, 0.95))
    assert table[0.8] <= table[0.95]
    assert recall(index.search(queries, 10, recall=0.95).ids, brute(rows, queries, 10)[1]) >= 0.945
    with pytest.raises(BadInput, match=r"up to 0\.95 for k=10 was measured; call calibrate"):
        index.search(queries, 10, recall=0.99)
    index.add(rows[:1] + 1)
    with pytest.raises(BadInput, match="nothing for k=10 was measured"):
        index.search(queries, 10, recall=0.8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_survives_its_file_and_grows_on(rng, tmp_path, dtype):
    rows, more, queries = clustered(rng, 120), clustered(rng, 30), clustered(rng, 10)
    index = index_of(rows, dtype=dtype, seed=5, **SMALL)
    allow = rng.random(120) < 0.4
    index.calibrate_filters(queries, 3, recalls=(0.5,), shares=(0.5,))
    index.save(tmp_path / "graph")
    again = DenseGraph.load(tmp_path / "graph")
    assert again.settings == index.settings
    assert (len(again), again.nbytes) == (len(index), index.nbytes)
    assert again.filter_costs(3).to_dict() == index.filter_costs(3).to_dict()
    for route in ROUTES:
        a, b = (one.search(queries, 5, allow=allow, route=route) for one in (index, again))
        assert np.array_equal(a.ids, b.ids)
        assert np.array_equal(a.scores, b.scores)
    for one in (index, again):
        one.add(more)
        assert one.lists is None
        assert one.filter_costs(3).recall == 0
    assert same_graph(index, again)
    assert np.array_equal(index.search(queries, 5).ids, again.search(queries, 5).ids)
    DenseGraph(4).save(tmp_path / "empty")
    assert len(DenseGraph.load(tmp_path / "empty")) == 0


def test_a_damaged_file_is_refused(rng, tmp_path):
    path = tmp_path / "graph"
    index_of(clustered(rng, 40), **SMALL).save(path)
    raw = bytearray(path.read_bytes())
    for at in (20, len(raw) // 2, len(raw) - 70):
        bad = bytearray(raw)
        bad[at] ^= 64
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            DenseGraph.load(path)
    path.write_bytes(raw[: len(raw) // 3])
    with pytest.raises(Corrupt):
        DenseGraph.load(path)
    os.unlink(path)
    with pytest.raises(BadInput, match="there is no dense graph"):
        DenseGraph.load(path)


def test_it_is_an_index_and_counts_its_bytes(rng):
    index = index_of(clustered(rng, 300), **SMALL)
    assert isinstance(index, Index)
    parts = index.nbytes_of_parts
    assert index.nbytes == sum(parts.values())
    assert parts["rows"] == 300 * 16 * 4
    assert parts["graph"] > 300 * 8 * 4
    assert parts["lists"] == 0
    assert "300 rows" in repr(index)
    assert "connectivity=4" in repr(index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"connectivity": 1}, "connectivity must be a whole number from 2 on"),
        ({"connectivity": 8.0}, "connectivity"),
        ({"expansion_add": 0}, "expansion_add"),
        ({"expansion_search": -1}, "expansion_search"),
        ({"refine": True}, "refine"),
        ({"keep_pruned": "no"}, "keep_pruned must be True or False"),
        ({"dtype": "float64"}, "dtype must be one of"),
        ({"metric": "l1"}, "metric must be one of"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(BadInput, match=message):
        DenseGraph(4, **settings)


def test_bad_rows_change_nothing():
    index = index_of(np.eye(3, dtype=np.float32))
    with pytest.raises(BadInput, match="row 1 holds NaN"):
        index.add(np.array([[0, 1, 2], [np.nan, 1, 2]]))
    with pytest.raises(SpaceMismatch, match="the index has 3 dimensions, the row has 2"):
        index.add(np.ones((1, 2)))
    assert len(index) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a positive integer"),
        ({"k": 1, "ef": 0}, "ef must be a positive integer"),
        ({"k": 1, "ef": 5, "recall": 0.9}, "give ef or recall, not both"),
        ({"k": 1, "recall": 0.9}, "nothing for k=1 was measured"),
        ({"k": 1, "allow": np.ones(2, bool)}, r"allow must be bool \[3\]"),
        ({"k": 1, "allow": np.ones(3)}, "allow must be bool"),
        ({"k": 1, "allow": np.ones(3, bool), "route": "ivf"}, "route must be one of scan, lists"),
        ({"k": 1, "route": "scan"}, "give allow"),
    ],
)
def test_bad_searches(arguments, message):
    index = index_of(np.eye(3, dtype=np.float32))
    with pytest.raises(BadInput, match=message):
        index.search(np.ones((1, 3)), **arguments)
