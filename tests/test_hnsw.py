"""The graph index: recall against the exact one, and masks that never leak."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from inlay.errors import BadInput, Corrupt, MissingExtra, SpaceMismatch
from inlay.indexes import HNSW, Flat
from inlay.types import Index

if importlib.util.find_spec("usearch") is None:  # to import it here would be too early: see `hnsw.engine`
    pytest.skip("needs usearch", allow_module_level=True)

DIM, N = 32, 5000


def clustered(n: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(0).standard_normal((50, DIM))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, 50, n)] + 0.5 * rng.standard_normal((n, DIM))).astype(np.float32)


@pytest.fixture(scope="module", params=["cosine", "dot", "l2"])
def pair(request):
    flat, graph = Flat(DIM, metric=request.param), HNSW(DIM, metric=request.param)
    for start in range(0, N, 2500):
        flat.add(clustered(N, 1)[start : start + 2500])
        graph.add(clustered(N, 1)[start : start + 2500])
    return flat, graph


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    hits = (found[:, :, None] == truth[:, None]) & (truth[:, None] >= 0)
    return float(hits.any(axis=2).sum() / (truth >= 0).sum())


def test_recall_and_scores(pair):
    flat, graph = pair
    queries = clustered(100, 2)
    truth, found = flat.search(queries, 10), graph.search(queries, 10)
    assert recall(found.ids, truth.ids) >= 0.95
    assert (np.diff(found.scores, axis=1) <= 0).all()
    same = found.ids[:, 0] == truth.ids[:, 0]
    np.testing.assert_allclose(found.scores[same, 0], truth.scores[same, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("share", [0.0, 0.0006, 0.01, 0.1, 0.5, 0.95, 1.0])
def test_masks_never_leak_and_always_fill(pair, share):
    flat, graph = pair
    allow = np.random.default_rng(3).random(N) < share
    queries = clustered(20, 4)
    truth, found = flat.search(queries, 10, allow=allow), graph.search(queries, 10, allow=allow)
    assert allow[found.ids[found.ids >= 0]].all()
    np.testing.assert_array_equal(found.ids >= 0, truth.ids >= 0)
    np.testing.assert_array_equal(np.isneginf(found.scores), found.ids < 0)
    assert all(len(set(ids[ids >= 0])) == (ids >= 0).sum() for ids in found.ids)
    if allow.any():
        assert recall(found.ids, truth.ids) >= 0.95


def test_a_mask_far_from_the_query_is_still_answered(pair):
    """Allowed rows opposite to the query: the graph must be searched far beyond the usual depth."""
    flat, graph = pair
    query = clustered(1, 5)
    farthest = flat.search(query, N).ids[0, -N // 3 :]
    allow = np.zeros(N, bool)
    allow[farthest] = True
    truth, found = flat.search(query, 10, allow=allow), graph.search(query, 10, allow=allow)
    assert allow[found.ids].all()
    assert recall(found.ids, truth.ids) >= 0.9


def test_the_graph_that_comes_back_short_is_completed(pair, monkeypatch):
    _, graph = pair
    monkeypatch.setattr("inlay.indexes.hnsw.ROW_COST", 1e9)  # never scan by plan
    monkeypatch.setattr(HNSW, "_from_graph", lambda self, queries, *rest: np.arange(len(queries)))
    allow = np.random.default_rng(3).random(N) < 0.01
    found = graph.search(clustered(3, 6), 5, allow=allow)
    assert (found.ids >= 0).all()
    assert allow[found.ids].all()


def test_more_than_there_are_and_none_at_all():
    graph = HNSW(3)
    assert graph.search([1, 0, 0], 2).ids.tolist() == [[-1, -1]]
    graph.add([[1, 0, 0], [0, 0, 0], [-1, 0, 0], [1, 0, 0]])
    found = graph.search([2, 0, 0], 6)
    assert found.ids.tolist() == [[0, 3, 1, 2, -1, -1]]
    np.testing.assert_allclose(found.scores[0, :4], [1, 1, 0, -1], atol=1e-6)
    assert isinstance(graph, Index)
    assert graph.nbytes > 0


def test_half_precision():
    rows = clustered(1500, 1)
    flat, graph = Flat(DIM, dtype="float16"), HNSW(DIM, dtype="float16")
    flat.add(rows)
    graph.add(rows)
    truth, found = flat.search(rows[:50], 10), graph.search(rows[:50], 10)
    assert recall(found.ids, truth.ids) >= 0.9
    np.testing.assert_allclose(found.scores, truth.scores, atol=5e-3)
    with pytest.raises(BadInput, match="65504"):
        HNSW(1, metric="dot", dtype="float16").add([[1e6]])


def test_rows_inserted_in_another_order_keep_their_ids(tmp_path):
    rows, queries = clustered(1500, 1), clustered(60, 2)
    flat = Flat(DIM)
    flat.add(rows)
    truth, found = flat.search(queries, 10), {}
    for order in ("given", "lid-desc", "lid-asc", "random"):
        graph = HNSW(DIM, order=order)
        graph.add(rows[:1000])
        graph.add(rows[1000:])
        found[order] = graph.search(queries, 10)
        assert recall(found[order].ids, truth.ids) >= 0.95
        same = found[order].ids[:, 0] == truth.ids[:, 0]
        np.testing.assert_allclose(found[order].scores[same, 0], truth.scores[same, 0], rtol=1e-4)
        assert f"order={order!r}" in repr(graph)
    graph.save(tmp_path / "graph.index")
    assert HNSW.load(tmp_path / "graph.index").order == "random"
    with pytest.raises(BadInput, match="needs threads=1"):
        HNSW(DIM, order="lid-desc", threads=2)
    with pytest.raises(BadInput, match="order must be one of"):
        HNSW(DIM, order="up")


def test_save_and_load(tmp_path):
    graph = HNSW(DIM, metric="l2", connectivity=8, expansion_search=80)
    graph.add(clustered(600, 1))
    path = tmp_path / "graph.index"
    graph.save(path)
    again = HNSW.load(path)
    assert repr(again) == repr(graph)
    for a, b in zip(graph.search(clustered(9, 2), 7), again.search(clustered(9, 2), 7)):
        np.testing.assert_array_equal(a, b)
    again.add(clustered(5, 3))
    assert again.search(clustered(5, 3), 1).ids[:, 0].tolist() == [600, 601, 602, 603, 604]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"graph\.index"):
        HNSW.load(path)


def test_bad_input_is_named(pair):
    _, graph = pair
    with pytest.raises(SpaceMismatch, match="32 dimensions, the row has 3"):
        graph.add(np.ones((2, 3)))
    with pytest.raises(BadInput, match="query 0 holds NaN"):
        graph.search(np.full(DIM, np.nan), 3)
    with pytest.raises(BadInput, match="k must be"):
        graph.search(np.ones(DIM), -1)
    with pytest.raises(BadInput, match="allow must be bool"):
        graph.search(np.ones(DIM), 1, allow=np.ones(3, bool))
    for bad in ({"metric": "x"}, {"dtype": "int8"}, {"connectivity": 1}, {"expansion_search": 0}):
        with pytest.raises(BadInput):
            HNSW(4, **bad)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingExtra, match=r"inlay\[hnsw\]"):
        HNSW(4)
