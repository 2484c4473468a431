"""Local intrinsic dimension against its formula and the truth; orders; graphs that respect the order they are given."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, MissingExtra, SpaceMismatch
from inlay.evaluation.difficulty import SWEEP, Sweep, components, index_difficulty, predicted, skewness
from inlay.evaluation.graph_engines import BACKENDS, build
from inlay.evaluation.orders import found_share, order_effect, seed_interval
from inlay.indexes.local_dimension import dimension_of, local_dimension, near_distances
from inlay.indexes.orders import insertion_order
from inlay.reproductions.indexes import _embedded_texts, hnsw_order
from inlay.reproductions.indexes._embedded_texts import labelled, ndcg

NEEDS = {"faiss": "faiss", "faiss-at-once": "faiss", "hnswlib": "hnswlib", "usearch": "usearch"}
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(need) is None, reason=f"needs {need}"))
    for name, need in NEEDS.items()
]


def gaussian(n, dim, rank=None, seed=0):
    rng = np.random.default_rng(seed)
    if rank is None:
        return rng.standard_normal((n, dim), dtype=np.float32)
    basis = np.linalg.qr(rng.standard_normal((dim, rank)))[0].T
    return (rng.standard_normal((n, rank)) @ basis).astype(np.float32)


def by_hand(distances, last=True):
    """The sheet's formula, one row at a time."""
    r = distances[distances > 0]
    if len(r) < 2:
        return 0.0
    total = sum(np.log(one / r[-1]) for one in r)
    return -(len(r) if last else len(r) - 1) / total if total < 0 else np.inf


# --- neighbours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_neighbours_are_those_of_a_sort_of_all_distances(metric):
    rows = gaussian(120, 7) * np.linspace(0.1, 3, 120, dtype=np.float32)[:, None] + 2
    rows[40] = rows[3]
    used = rows.astype(np.float64)
    if metric == "cosine":
        used /= np.linalg.norm(used, axis=1, keepdims=True)
    distances = np.linalg.norm(used[:, None] - used[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    near, found = near_distances(rows, 9, metric=metric)
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :9], atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(distances, near, axis=1), found, atol=2e-6)
    assert not (near == np.arange(120)[:, None]).any()


def test_duplicates_are_at_distance_nought_and_are_not_the_row_itself():
    """A product in float32 would put them at about 3e-4, whose logarithm outweighs all others."""
    rows = np.repeat(gaussian(40, 64), 3, axis=0)
    rows[1::3] *= 7  # of another length: the same row to a cosine
    near, distances = near_distances(rows, 6)
    assert (distances[:, :2] == 0).all()
    assert (distances[:, 2:] > 0.1).all()
    assert (near[:, :2] // 3 == np.arange(120)[:, None] // 3).all()
    assert not (near == np.arange(120)[:, None]).any()
    assert (near_distances(rows[::3] + 1000, 2, metric="l2")[1] > 1).all()


def test_anchors_and_a_part_to_look_among():
    rows = gaussian(90, 5)
    anchors, among = np.array([7, 80, 3]), np.arange(0, 90, 2)
    near, distances = near_distances(rows, 4, metric="l2", anchors=anchors, among=among)
    assert near.shape == distances.shape == (3, 4)
    assert (near % 2 == 0).all()
    for anchor, own, far in zip(anchors, near, distances):
        there = np.setdiff1d(among, [anchor])
        exact = np.linalg.norm(rows[there] - rows[anchor], axis=1)
        np.testing.assert_array_equal(own, there[np.argsort(exact)[:4]])
        np.testing.assert_allclose(far, np.sort(exact)[:4], rtol=1e-5)
    whole = near_distances(rows, 4, metric="l2")
    np.testing.assert_array_equal(near_distances(rows, 4, metric="l2", anchors=anchors)[0], whole[0][anchors])


# --- dimension -------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1e-3, 0.5, 1.0, 2.0, 7.0]), min_size=5, max_size=5), min_size=1, max_size=6)
)
@settings(max_examples=80, deadline=None)
def test_the_estimate_is_the_formula(values):
    distances = np.sort(np.array(values), axis=1)
    for last in (True, False):
        np.testing.assert_allclose(dimension_of(distances, last=last), [by_hand(row, last) for row in distances])


def test_the_estimate_does_not_change_with_scale_and_knows_the_variant():
    distances = np.sort(np.random.default_rng(0).random((20, 50)), axis=1)
    np.testing.assert_allclose(dimension_of(distances), dimension_of(distances * 1e-3))
    np.testing.assert_allclose(dimension_of(distances, last=False), dimension_of(distances) * 49 / 50)
    assert dimension_of(np.zeros((2, 5))).tolist() == [0, 0]
    assert dimension_of(np.array([[0, 0, 3.0]])).tolist() == [0]
    assert dimension_of(np.array([[2.0, 2.0, 2.0]])).tolist() == [np.inf]


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_rows_of_known_rank_have_that_dimension(rank):
    """Uniform in a ball, the estimator is unbiased up to edges; the width of the rows must not matter."""
    rng = np.random.default_rng(1)
    inside = rng.random((3000, rank)) @ np.linalg.qr(rng.standard_normal((64, rank)))[0].T
    lid = local_dimension(inside.astype(np.float32), 50, metric="l2")
    assert abs(np.median(lid) - rank) < 0.2 * rank


def test_cosine_is_measured_between_unit_rows():
    rows = gaussian(400, 6)
    scaled = rows * np.random.default_rng(2).uniform(0.1, 10, (400, 1)).astype(np.float32)
    np.testing.assert_allclose(local_dimension(scaled, 20), local_dimension(rows, 20), rtol=1e-3)
    assert not np.allclose(local_dimension(scaled, 20, metric="l2"), local_dimension(rows, 20, metric="l2"), rtol=0.05)


def test_a_report_of_rows_of_low_rank():
    rows = gaussian(1500, 64, rank=4)
    found = index_difficulty(rows, 30, 500, metric="l2")
    assert found.pca99 == 4
    assert 3 < found.lid_mean < 5.5
    assert found.lid.shape == found.lid_without_last.shape == found.anchors.shape == (500,)
    assert (found.lid_without_last < found.lid).all()
    np.testing.assert_allclose(found.lid, local_dimension(rows, 30, metric="l2")[found.anchors])
    assert found.duplicates == 0
    assert index_difficulty(gaussian(1500, 64), 30, 500).pca99 > 55
    assert index_difficulty(gaussian(1500, 64), 30, 500).hubness > found.hubness  # hubs come with dimension
    assert json.dumps(found.to_dict())
    assert "lid=" not in repr(found)
    assert index_difficulty(np.concatenate([rows, rows[:750]]), 30, metric="l2").duplicates == pytest.approx(2 / 3)


def test_components_and_skewness():
    rows = np.diag([3, 1, 0.1]).astype(np.float32)
    rows = np.concatenate([rows, -rows])
    assert components(rows, 0.89) == 1  # 9 / 10.01
    assert components(rows, 0.99) == 2
    assert components(rows, 0.9999) == 3
    assert components(np.ones((5, 3), np.float32)) == 0
    assert components(gaussian(6, 40)) <= 5  # fewer rows than columns
    assert skewness(np.array([2, 2, 2])) == 0
    assert skewness(np.array([0, 0, 0, 4])) == pytest.approx(1.1547, abs=1e-4)


def test_the_heuristic_falls_with_dimension_and_with_rows():
    table = (Sweep(100, (2.0, 8.0), {10: (1.0, 0.6)}), Sweep(10_000, (3.0, 9.0), {10: (0.9, 0.3)}))
    assert predicted(4.0, 100, table) == {10: pytest.approx(0.8)}
    assert predicted(1.0, 1, table) == {10: 1.0}
    assert predicted(np.inf, 10**9, table) == {10: 0.3}
    assert predicted(9.0, 1000, table)[10] == pytest.approx(0.45)
    assert predicted(5.0, 10, ()) == {}
    for sweep in SWEEP:
        for recall in sweep.recall.values():
            assert len(recall) == len(sweep.lid)
            assert list(recall) == sorted(recall, reverse=True)
        assert list(sweep.lid) == sorted(sweep.lid)


def test_the_heuristic_is_what_the_reproduction_measured():
    path = Path(__file__).parents[1] / "results" / "hnsw-order.json"
    if not path.exists():
        pytest.skip("inlay reproduce hnsw-order has not been run")
    measured = json.loads(path.read_text())["figures"]["sweep"]
    for sweep, one in zip(SWEEP, measured, strict=True):
        assert sweep.rows == one["rows"]
        np.testing.assert_allclose(sweep.lid, one["lid"], rtol=0.02)
        for ef, recall in sweep.recall.items():
            np.testing.assert_allclose(recall, one["recall"][str(ef)], atol=0.02)


# --- orders ----------------------------------------------------------------------------------------------------------


def test_orders_are_permutations_by_dimension():
    rows = np.concatenate([gaussian(150, 32, rank=2), gaussian(150, 32, seed=1)])
    dimension = local_dimension(rows, 100)
    down, up = insertion_order(rows), insertion_order(rows, "lid-asc")
    assert (np.diff(dimension[down]) <= 0).all()
    assert (np.diff(dimension[up]) >= 0).all()
    assert (down[:140] >= 150).mean() > 0.95
    for order in ("given", "random", "lid-desc", "lid-asc"):
        assert np.array_equal(np.sort(insertion_order(rows, order, 3)), np.arange(300))
    assert insertion_order(rows, "given").tolist() == list(range(300))
    assert not np.array_equal(insertion_order(rows, "random", 1), insertion_order(rows, "random", 2))
    assert np.array_equal(insertion_order(rows, "random", 1), insertion_order(rows, "random", 1))
    few = insertion_order(rows, "lid-desc", among=120)
    assert (few[:140] >= 150).mean() > 0.9
    for n in (0, 1, 2, 3, 5):
        assert sorted(insertion_order(rows[:n]).tolist()) == list(range(n))


def test_rows_of_equal_dimension_stay_as_given():
    assert insertion_order(np.ones((20, 4))).tolist() == list(range(20))


# --- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ENGINES)
def test_graphs_find_nearly_all_and_depend_on_their_seed(backend):
    rows, queries = gaussian(1200, 16), gaussian(60, 16, seed=5)
    found = [
        build(backend, rows, seed=seed, connectivity=4, expansion_add=16).search(queries, 10, 16)
        for seed in (0, 0, 1, 2)
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2]), "another seed gave the same levels"
    assert not np.array_equal(found[2], found[3])
    exact = np.argsort(np.linalg.norm(rows[None] - queries[:, None], axis=2), axis=1)[:, :10]
    careful = build(backend, rows).search(queries, 10, 200)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(careful, exact)]) > 0.98
    assert build(backend, rows[:4]).search(queries[:2], 3, 10).shape == (2, 3)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss")
def test_faiss_keeps_the_order_only_where_rows_come_one_by_one():
    """Rows inserted first have the longest links; in one call they are shuffled, and have not."""
    rows = gaussian(1500, 8)

    def reach(backend):
        offsets, to = build(backend, rows, seed=1).base_layer()
        away = np.linalg.norm(rows[np.repeat(np.arange(1500), np.diff(offsets))] - rows[to], axis=1)
        each = np.add.reduceat(away, offsets[:-1]) / np.diff(offsets)
        return each[:300].mean() / each[-300:].mean()

    assert reach("faiss") > 1.02
    assert abs(reach("faiss-at-once") - 1) < 0.02


def test_a_report_of_orders():
    pytest.importorskip("faiss")
    rows, queries = gaussian(700, 24), gaussian(50, 24, seed=9)
    backwards = {"backwards": lambda seed: np.arange(700)[::-1]}
    found = order_effect(
        rows, queries, ("lid-desc", "random"), 2, ("faiss",), efs=(10, 700), more=backwards, paths=True,
        judge=lambda ids: float((ids >= 0).mean()),
    )  # fmt: skip
    assert set(found.recall["faiss"]) == {"lid-desc", "random", "backwards"}
    assert found.recall["faiss"]["random"].shape == (2, 2)
    for order in found.recall["faiss"]:
        assert found.mean("faiss", order, 700) > 0.99
        assert found.mean("faiss", order, 10) < found.mean("faiss", order, 700)
        assert 1 < found.path["faiss"][order].mean() < 6
        assert found.judged["faiss"][order].tolist() == [[1, 1], [1, 1]]
    gain = found.difference("faiss", 10, "lid-desc", "random")
    apart = found.recall["faiss"]["lid-desc"][:, 0] - found.recall["faiss"]["random"][:, 0]
    assert gain.mean == pytest.approx(apart.mean())
    assert gain.low <= gain.mean <= gain.high
    assert found.spread("faiss", "random", 10) == pytest.approx(found.recall["faiss"]["random"][:, 0].std(ddof=1))
    assert json.dumps(found.to_dict())
    again = order_effect(rows, queries, ("lid-desc", "random"), [0, 1], ("faiss",), efs=(10, 700))
    np.testing.assert_array_equal(again.recall["faiss"]["random"], found.recall["faiss"]["random"])
    with pytest.raises(BadInput, match="nothing was measured for engine 'faiss', order 'lid-desc', ef=11"):
        found.mean("faiss", "lid-desc", 11)


def test_recall_counts_equals_and_not_what_is_missing():
    rows = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    queries = np.array([[1, 0]], dtype=np.float32)
    for metric, best in (("cosine", [[1.0]]), ("l2", [[0.0]])):
        for ids, share in (([[0]], 1), ([[1]], 1), ([[2]], 0), ([[-1]], 0)):
            assert found_share(np.array(ids), queries, rows, np.array(best, np.float32), metric) == share
    assert found_share(np.array([[0, 2]]), queries, rows, np.array([[1, 1]], np.float32)) == 0.5


def test_intervals_over_seeds():
    mean, low, high = seed_interval(np.array([1.0, 2, 3, 4, 5]))
    assert mean == 3
    assert high - mean == pytest.approx(2.776 * np.sqrt(2.5 / 5), abs=1e-3)
    assert mean - low == pytest.approx(high - mean)
    assert seed_interval(np.array([7.0])) == (7, -np.inf, np.inf)
    assert np.isfinite(seed_interval(np.arange(100)).high)


# --- the reproduction ------------------------------------------------------------------------------------------------


def test_ndcg_of_found_documents():
    grades = np.array([[2, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=np.uint8)
    ids = np.array([[0, 1, 2], [0, 1, 2], [0, -1, 1]])
    first = (2 + 1 / 2) / (2 + 1 / np.log2(3))
    assert ndcg(grades)(ids) == pytest.approx((first + 0.5) / 2)  # nobody can answer the second query


def test_one_category_after_another():
    labels = np.random.default_rng(0).integers(0, 4, 90)
    orders = [hnsw_order._one_by_one(labels)(seed) for seed in (0, 0, 1)]
    for order in orders:
        assert np.array_equal(np.sort(order), np.arange(90))
        assert (np.diff(labels[order]) != 0).sum() == 3
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_texts_of_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(_embedded_texts, "HELD_OUT", 3)
    rows = [f"train\tkind {i % 2}\ttext {i // 2} \u2028 here" for i in range(20)]
    for name, lines in {
        "t.tsv.gz": ["split\tlabel\ttext", *rows],
        "t.jsonl.gz": [
            json.dumps({"label": r.split("\t")[1], "text": r.split("\t")[2]}, ensure_ascii=False) for r in rows
        ],
    }.items():
        (tmp_path / name).write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
        texts = labelled(tmp_path, "t", name, "label", ("text",))
        assert len(texts.queries) == 3
        assert len(texts.documents) == len(texts.labels) == 7  # each stands there twice
        assert not set(texts.queries) & set(texts.documents)
    with pytest.raises(BadInput, match=r"there is no .*missing"):
        labelled(tmp_path, "t", "missing.tsv.gz", "label", ("text",))


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="needs faiss")
def test_a_sweep_falls_with_rank(monkeypatch):
    monkeypatch.setattr(hnsw_order, "WIDTH", 96)
    monkeypatch.setattr(hnsw_order, "RANKS", (2, 12, 96))
    monkeypatch.setattr(hnsw_order, "QUERIES", 60)
    found, spread = hnsw_order._sweep(1500, (0, 1), "cosine")
    assert list(found.lid) == sorted(found.lid)
    assert found.recall[10][0] > found.recall[10][1] > found.recall[10][2]
    assert all(a >= b for a, b in zip(found.recall[100], found.recall[40]))
    assert 0 < spread < 0.1


# --- bad input -------------------------------------------------------------------------------------------------------


def test_bad_input_is_named():
    rows = gaussian(30, 4)
    for call, message in [
        (lambda: near_distances(rows, 30), "k=30 neighbours of rows that have 29 others"),
        (lambda: near_distances(rows, 1), "k=1 neighbours"),
        (lambda: near_distances(rows, True), "k=True neighbours"),
        (lambda: near_distances(rows[0], 3), r"expected rows \[n, dim\]"),
        (lambda: near_distances(rows, 3, metric="l1"), "metric must be one of"),
        (lambda: near_distances(rows, 3, anchors=np.array([30])), "anchors reach from 30 to 30, the rows are 0 to 29"),
        (lambda: near_distances(rows, 3, anchors=np.array([0.5])), "anchors must be numbers of rows"),
        (lambda: near_distances(rows, 3, among=np.array([1, 2, 3, 3, 4])), "among name a row twice"),
        (lambda: near_distances(np.full((9, 2), np.nan), 3), "row 0 holds NaN"),
        (lambda: index_difficulty(rows), "k=100 neighbours of rows that have 29 others"),
        (lambda: index_difficulty(rows, 5, 0), "sample must be a positive number"),
        (lambda: index_difficulty(rows[0], 5), r"expected rows \[n, dim\]"),
        (lambda: insertion_order(rows, "sideways"), "order must be one of given, lid-desc, lid-asc, random"),
        (lambda: insertion_order(rows, among=2), "among must be a number of rows"),
        (lambda: build("annoy", rows), "no graph engine 'annoy'; known are faiss"),
        (lambda: order_effect(rows, rows, backends=("annoy",)), "no graph engine 'annoy'"),
        (lambda: order_effect(rows, rows, ("sideways",), backends=("usearch",)), "order must be one of"),
        (lambda: order_effect(rows, rows[:0], backends=("usearch",)), "of 0 queries among 30 rows"),
        (lambda: order_effect(rows, rows, k=31), "31 neighbours of 30 queries among 30 rows"),
        (lambda: order_effect(rows, rows, efs=()), "efs must be positive integers"),
        (lambda: order_effect(rows, rows, seeds=0), "seeds must be a positive number"),
        (lambda: order_effect(rows, rows, seeds=[1, -1]), "seeds must be a positive number"),
        (lambda: order_effect(rows, rows, (), 1), "name an order and an engine"),
        (
            lambda: order_effect(rows, rows, (), 1, ("usearch",), more={"half": lambda seed: np.arange(15)}),
            "order 'half' must name each of 30 rows once",
        ),
    ]:
        with pytest.raises(BadInput, match=message):
            call()
    with pytest.raises(SpaceMismatch, match="4 dimensions, the query has 3"):
        order_effect(rows, rows[:, :3])


@pytest.mark.parametrize(("backend", "module", "extra"), [
    ("faiss", "faiss", "bench"), ("hnswlib", "hnswlib", "bench"), ("usearch", "usearch.index", "hnsw"),
])  # fmt: skip
def test_without_the_engine(monkeypatch, backend, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"inlay\[{extra}\]"):
        build(backend, gaussian(10, 3))
    assert backend in BACKENDS
