"""The exact index against arithmetic in float64, in both forms of its kernels."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.indexes import Flat
from inlay.kernels import dense, topk
from inlay.types import Index

DTYPES = ["float32", "float16", "int8"]
METRICS = ["cosine", "dot", "l2"]
RNG = np.random.default_rng(7)


@pytest.fixture(
    params=[
        "numpy",
        pytest.param("numba", marks=pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="no numba")),
    ]
)
def form(request, monkeypatch):
    for module in (dense, topk):
        monkeypatch.setattr(module, "compiled", lambda work: request.param == "numba")


def exact(index: Flat, queries: np.ndarray) -> np.ndarray:
    """Scores of the rows as they are stored, in float64."""
    rows = index.codec.decode((index.rows, index.scales) if index.dtype == "int8" else index.rows).astype(np.float64)
    queries = queries.astype(np.float64)
    if index.metric == "cosine":
        queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-30)
    if index.metric == "l2":
        return -((queries[:, None] - rows) ** 2).sum(axis=2)
    return queries @ rows.T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dim", "n", "q"), [(1, 5, 1), (7, 300, 3), (16, 301, 1), (67, 1030, 6), (64, 257, 9)])
def test_scores_and_order(form, dtype, metric, dim, n, q):
    index = Flat(dim, metric=metric, dtype=dtype)
    index.add(RNG.standard_normal((n, dim)) * 3)
    queries = RNG.standard_normal((q, dim)).astype(np.float32)
    for allow in (None, RNG.random(n) < 0.6):
        truth = exact(index, queries)
        allowed = np.ones(n, bool) if allow is None else allow
        truth[:, ~allowed] = -np.inf
        k = min(10, int(allowed.sum()))
        found = index.search(queries, k, allow=allow)
        assert found.ids.dtype == np.int64
        assert found.scores.dtype == np.float32
        scale = np.abs(truth[np.isfinite(truth)]).max()
        np.testing.assert_allclose(found.scores, -np.sort(-truth, axis=1)[:, :k], atol=2e-6 * scale, rtol=1e-5)
        np.testing.assert_allclose(
            found.scores, np.take_along_axis(truth, found.ids, axis=1), atol=2e-6 * scale, rtol=1e-5
        )
        assert allowed[found.ids].all()
        assert all(len(set(ids)) == k for ids in found.ids.tolist())


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ties_go_to_the_lower_id(dtype, data):
    # Small integers: every sum is exact, so equal scores are equal whatever the order of addition.
    n, dim, q, k = (data.draw(st.integers(1, top)) for top in (60, 20, 6, 25))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    index = Flat(dim, metric=data.draw(st.sampled_from(["dot", "l2"])), dtype=dtype)
    rows = rng.integers(-1, 2, (n, dim))
    rows[:, 0] = 1
    index.add(rows * (127 if dtype == "int8" else 1))
    queries = rng.integers(-2, 3, (q, dim)).astype(np.float32)
    allow = rng.random(n) < 0.7
    found = index.search(queries, k, allow=allow)
    truth = exact(index, queries)
    for query in range(q):
        ids = np.flatnonzero(allow)
        best = ids[np.lexsort((ids, -truth[query, ids]))][:k]
        assert found.ids[query].tolist() == best.tolist() + [-1] * (k - len(best))
        assert np.isneginf(found.scores[query, len(best) :]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_forms_agree(monkeypatch, dtype):
    pytest.importorskip("numba")
    index = Flat(50, metric="l2", dtype=dtype)
    index.add(RNG.standard_normal((700, 50)))
    queries = RNG.standard_normal((5, 50)).astype(np.float32)
    ids = np.flatnonzero(RNG.random(700) < 0.2)
    results = []
    for fast in (False, True):
        monkeypatch.setattr(dense, "compiled", lambda work, fast=fast: fast)
        for metric in ("dot", "l2"):
            for some in (None, ids):
                options = {"scales": index.scales, "metric": metric, "ids": some}
                batch = dense.score(queries, index.rows, **options)
                single = np.concatenate([dense.score(query[None], index.rows, **options) for query in queries])
                results.append((fast, metric, some is None, batch))
                np.testing.assert_allclose(batch, single, rtol=2e-5, atol=2e-5)
    for plain, compiled in zip(results[:4], results[4:]):
        assert plain[1:3] == compiled[1:3]
        np.testing.assert_allclose(plain[3], compiled[3], rtol=2e-5, atol=2e-5)


def test_l2_keeps_its_digits_far_from_the_origin(form):
    rows = 1000 + RNG.standard_normal((400, 24)) / 100
    index = Flat(24, metric="l2")
    index.add(rows)
    queries = rows[:5].astype(np.float32)
    truth = exact(index, queries)
    np.testing.assert_allclose(index.search(queries, 400).scores, -np.sort(-truth, axis=1), rtol=1e-4, atol=1e-9)


def test_memory_stays_bounded_and_blocks_join(form, monkeypatch):
    index = Flat(8, metric="dot")
    rows, queries = RNG.standard_normal((3000, 8)), RNG.standard_normal((7, 8)).astype(np.float32)
    index.add(rows)
    allow = RNG.random(3000) < 0.5
    whole, masked = index.search(queries, 40), index.search(queries, 40, allow=allow)
    monkeypatch.setattr(dense, "SCORES_AT_ONCE", 1)
    monkeypatch.setattr(dense, "VALUES_AT_ONCE", 1)
    monkeypatch.setattr(dense, "QUERIES_AT_ONCE", 3)
    for before, after in (
        (whole, index.search(queries, 40)),
        (masked, index.search(queries, 40, allow=allow)),
    ):
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_allclose(before.scores, after.scores, rtol=1e-6)
    scores = dense.score(queries, index.rows, ids=whole.ids[0])
    np.testing.assert_allclose(scores[0], whole.scores[0], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_many_adds_equal_one(dtype, metric):
    rows = RNG.standard_normal((500, 12))
    rows[3] = 0
    one, many = Flat(12, metric=metric, dtype=dtype), Flat(12, metric=metric, dtype=dtype)
    one.add(rows)
    for start in (0, 1, 2, 90, 91, 350):
        many.add(rows[start : {0: 1, 1: 2, 2: 90, 90: 91, 91: 350, 350: 500}[start]])
    many.add([])
    assert len(many) == len(one) == 500
    assert many.nbytes == one.nbytes == 500 * {"float32": 48, "float16": 24, "int8": 16}[dtype]
    np.testing.assert_array_equal(one.rows, many.rows)
    np.testing.assert_array_equal(one.scales, many.scales)
    assert isinstance(one, Index)


def test_zero_rows_and_zero_queries_score_zero_by_cosine(form):
    index = Flat(3)
    index.add([[0, 0, 0], [2, 0, 0], [-1, 0, 0], [1e-30, 0, 0]])
    found = index.search([1, 0, 0], 4)
    assert found.ids.tolist() == [[1, 3, 0, 2]]
    np.testing.assert_allclose(found.scores, [[1, 1, 0, -1]], atol=1e-6)
    assert index.search([0, 0, 0], 4).scores.tolist() == [[0, 0, 0, 0]]


def test_nothing_to_find(form):
    index = Flat(4)
    assert index.search(np.ones(4), 2).ids.tolist() == [[-1, -1]]
    index.add(np.eye(4))
    assert index.search(np.empty((0, 4)), 2).ids.shape == (0, 2)
    none = index.search(np.ones(4), 2, allow=np.zeros(4, bool))
    assert none.ids.tolist() == [[-1, -1]]
    assert np.isneginf(none.scores).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_save_and_load(tmp_path, dtype, metric):
    index = Flat(9, metric=metric, dtype=dtype)
    index.add(RNG.standard_normal((40, 9)))
    index.save(tmp_path / "rows.index")
    again = Flat.load(tmp_path / "rows.index")
    query = RNG.standard_normal((2, 9))
    for a, b in zip(index.search(query, 5), again.search(query, 5)):
        np.testing.assert_array_equal(a, b)
    assert repr(again) == repr(index)
    again.add(RNG.standard_normal((3, 9)))
    assert len(again) == 43


def test_a_damaged_file_is_corrupt_or_equal(tmp_path):
    index = Flat(9, dtype="int8")
    index.add(RNG.standard_normal((40, 9)))
    path = tmp_path / "rows.index"
    index.save(path)
    data = path.read_bytes()
    caught = 0
    for place in range(0, len(data), 37):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            again = Flat.load(path)
        except Corrupt:
            caught += 1
        else:
            np.testing.assert_array_equal(again.rows, index.rows)
            np.testing.assert_array_equal(again.scales, index.scales)
    assert caught
    with pytest.raises(FileNotFoundError):
        Flat.load(tmp_path / "absent")


def test_over_mapped_rows_copies_only_when_rows_are_added(form, tmp_path):
    rows = dense.normalise(RNG.standard_normal((90, 8)))
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    index = Flat.over(mapped)
    assert np.shares_memory(index.rows, mapped)
    assert index.search(rows[:12], 1).ids[:, 0].tolist() == list(range(12))
    index.add(rows[:2])
    assert len(index) == 92
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), rows)


def test_a_refused_row_leaves_the_index_as_it_was(monkeypatch):
    monkeypatch.setattr("inlay.indexes.flat.ROWS_AT_ONCE", 2)
    index = Flat(2, metric="dot", dtype="float16")
    index.add(np.ones((3, 2)))
    with pytest.raises(BadInput, match="65504"):
        index.add([[1, 1], [1, 1], [1, 1], [1, 1e6]])
    assert len(index) == 3
    assert index.search([1, 1], 9).ids[0].tolist() == [0, 1, 2] + [-1] * 6


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda i: i.add(np.ones((2, 3))), SpaceMismatch, "4 dimensions, the row has 3"),
        (lambda i: i.add([[1, 2, np.nan, 4]]), BadInput, "row 0 holds NaN"),
        (lambda i: i.add([[1, 2, 3, 4], [1, 2, 3, 1e39]]), BadInput, "row 1 holds NaN, or"),
        (lambda i: i.add(np.ones((2, 2, 4))), BadInput, "shape"),
        (lambda i: i.add([["a", "b", "c", "d"]]), BadInput, "numbers"),
        (lambda i: i.search([1, 2, 3], 1), SpaceMismatch, "the query has 3"),
        (lambda i: i.search(np.ones(4), 0), BadInput, "k must be a positive integer, got 0"),
        (lambda i: i.search(np.ones(4), 1.5), BadInput, "1.5"),
        (lambda i: i.search(np.ones(4), 1, allow=np.ones(3, bool)), BadInput, r"allow must be bool \[5\]"),
        (lambda i: i.search(np.ones(4), 1, allow=np.ones(5)), BadInput, "float64"),
        (lambda i: Flat(0), BadInput, "dim"),
        (lambda i: Flat(3, metric="hamming"), BadInput, "hamming"),
        (lambda i: Flat(3, dtype="int4"), BadInput, "int4"),
        (lambda i: Flat.over(np.ones((2, 3))), BadInput, "float64"),
        (lambda i: Flat.over(np.ones((2, 3), np.int8)), BadInput, "no scales"),
        (lambda i: Flat.over(np.ones((2, 3), np.int8), np.ones(1, np.float32)), BadInput, "1 scales"),
    ],
)
def test_bad_input_is_named(call, error, message):
    index = Flat(4)
    index.add(np.ones((5, 4)))
    with pytest.raises(error, match=message):
        call(index)


def test_finite_rows_whose_sum_overflows_are_accepted():
    index = Flat(2)
    index.add([[3e38, 3e38], [3e38, -3e38]])
    np.testing.assert_allclose(index.search([1, 1], 2).scores, [[1, 0]], atol=1e-6)
