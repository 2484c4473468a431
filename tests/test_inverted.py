"""Posting lists against dense brute force, in the plain and the compiled form."""

from __future__ import annotations

import contextlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.indexes.inverted import Inverted, Postings
from inlay.kernels import postings as kernel
from inlay.types import Index, Sparse

pytest.importorskip("numba")
from inlay.kernels import postings_numba

FORMS = {"plain": False, "compiled": True}


@pytest.fixture(params=FORMS)
def form(request):
    with mock.patch.object(kernel, "compiled", return_value=FORMS[request.param]):
        yield request.param


@st.composite
def problems(draw, signed=None):
    """(rows [n, d], queries [q, d], allow or None, k): small dyadic numbers, so that sums are exact and ties abound."""
    n, d, q = draw(st.integers(0, 40)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    signed = draw(st.booleans()) if signed is None else signed
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = -3 if signed else 0
    rows = rng.integers(low, 4, (n, d)) * (rng.random((n, d)) < rng.random())
    queries = rng.integers(low, 4, (q, d)) * (rng.random((q, d)) < 0.7)
    allow = rng.random(n) < rng.random() if draw(st.booleans()) else None
    return rows.astype(np.float32) / 2, queries.astype(np.float32), allow, draw(st.integers(1, n + 3))


def brute_force(rows, query, allow, k):
    matches = ((rows != 0) & (query != 0)).any(axis=1)
    if allow is not None:
        matches &= allow
    scores, found = rows @ query, np.flatnonzero(matches)
    order = found[np.lexsort((found, -scores[found]))][:k]
    return scores[order], order


def check(found, rows, queries, allow, k):
    assert found.scores.shape == found.ids.shape == (len(queries), k)
    assert found.scores.dtype == np.float32
    assert found.ids.dtype == np.int64
    for query, scores, ids in zip(queries, *found):
        expected, order = brute_force(rows, query, allow, k)
        assert ids[: len(order)].tolist() == order.tolist()
        assert scores[: len(order)].tolist() == expected.tolist()
        assert (ids[len(order) :] == -1).all()
        assert (scores[len(order) :] == -np.inf).all()


@given(problems())
@settings(deadline=None)
def test_exact_plain(problem):
    rows, queries, allow, k = problem
    with mock.patch.object(kernel, "compiled", return_value=False):
        index = Inverted()
        index.add(Sparse.from_dense(rows))
        check(index.search(Sparse.from_dense(queries), k, allow=allow), *problem)


@given(problems())
@settings(deadline=None)
def test_exact_compiled(problem):
    rows, queries, allow, k = problem
    with mock.patch.object(kernel, "compiled", return_value=True):
        index = Inverted()
        index.add(Sparse.from_dense(rows))
        check(index.search(Sparse.from_dense(queries), k, allow=allow), *problem)


def skewed(rng, n=30_000, columns=40, dtype=np.float32):
    """CSR rows whose columns range from in every second row to in a handful, over several windows."""
    dense = rng.random((n, columns)) < 0.5 / np.arange(1, columns + 1) ** 1.8
    row, column = np.nonzero(dense)
    indptr = np.concatenate([[0], np.cumsum(dense.sum(axis=1))])
    values = rng.random(len(row)).astype(np.float32) if dtype == np.float32 else rng.integers(1, 20, len(row))
    return indptr, column.astype(np.int32), values.astype(dtype), (n, columns)


@pytest.mark.parametrize("k", [1, 10, 1000])
@pytest.mark.parametrize("masked", [False, True])
def test_forms_agree_bit_for_bit_over_many_windows(k, masked):
    rng = np.random.default_rng(k)
    indptr, columns, values, shape = skewed(rng)
    postings = Postings.from_rows(indptr, columns, values, shape[1])
    queries = [rng.choice(shape[1], rng.integers(1, 9), replace=False) for _ in range(25)]
    weights = [(rng.random(len(q)) * (1 + q)).astype(np.float32) for q in queries]
    offsets = np.concatenate([[0], np.cumsum([len(q) for q in queries])])
    allow = rng.random(shape[0]) < 0.3 if masked else None
    results = {}
    for name, use in FORMS.items():
        with mock.patch.object(kernel, "compiled", return_value=use):
            results[name] = postings.top_many(offsets, np.concatenate(queries), np.concatenate(weights), k, allow)
    with mock.patch.object(kernel, "compiled", return_value=True):
        results["parallel"] = postings.top_many(
            offsets, np.concatenate(queries), np.concatenate(weights), k, allow, parallel=True
        )
    for other in ("compiled", "parallel"):
        assert np.array_equal(results["plain"].ids, results[other].ids)
        assert np.array_equal(results["plain"].scores, results[other].scores)


def test_ties_over_many_windows_go_to_lower_rows(form):
    indptr, columns, values, shape = skewed(np.random.default_rng(3), dtype=np.uint8)
    values[:] = 1
    postings = Postings.from_rows(indptr, columns, values, shape[1])
    dense = Sparse(indptr, columns, values.astype(np.float32), shape).toarray()
    query = np.zeros(shape[1], dtype=np.float32)
    query[[0, 1, 5, 20]] = 1, 1, 2, 8
    scores, rows = postings.top(np.flatnonzero(query), query[query != 0], 300)
    expected, order = brute_force(dense, query, None, 300)
    assert rows.tolist() == order.tolist()
    assert scores.tolist() == expected.tolist()


@given(problems(), st.lists(st.integers(0, 40), max_size=3))
@settings(deadline=None)
def test_adding_in_parts_is_adding_at_once(problem, cuts):
    rows, queries, allow, k = problem
    whole, parts = Inverted(), Inverted()
    whole.add(Sparse.from_dense(rows))
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(rows)]):
        parts.add(Sparse.from_dense(rows[start:stop]))
        parts.search(Sparse.from_dense(queries), 1)  # merges, so that the next part has something to join
    if sorted(cuts)[-1:] <= [len(rows)]:
        assert len(parts) == len(whole) == len(rows)
        found = parts.search(Sparse.from_dense(queries), k, allow=allow)
        check(found, rows, queries, allow, k)


def test_transpose_forms_agree():
    for columns_, n in ((40, 5000), (200_000, 300)):
        rng = np.random.default_rng(columns_)
        lengths = rng.integers(0, 30, n)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        columns = np.concatenate([np.sort(rng.choice(columns_, size, replace=False)) for size in lengths]).astype("i4")
        values = rng.integers(0, 255, len(columns)).astype(np.uint8)
        plain = kernel._transpose_plain(indptr, columns, values, columns_)
        compiled = postings_numba.transpose(indptr, columns, values, columns_)
        for one, other in zip(plain, compiled):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_raw_values_are_weighed_once_and_only_where_touched(form, dtype):
    indptr, columns, values, shape = skewed(np.random.default_rng(5), n=2000, dtype=dtype)
    norm = np.random.default_rng(6).random(shape[0]).astype(np.float32)
    seen = []

    def weigh(rows, raw):
        seen.append(len(rows))
        return raw.astype(np.float32) / (raw.astype(np.float32) + norm[rows])

    postings = Postings.from_rows(indptr, columns, values, shape[1], weigh=weigh)
    dense = Sparse(indptr, columns, values.astype(np.float32), shape).toarray()
    dense = np.divide(dense, dense + norm[:, None])
    assert seen == []
    lengths = np.diff(postings.indptr)
    for query in ([7], [7], [7, 9, 12], list(range(shape[1])), [3]):
        scores, _ = postings.top(np.array(query), np.ones(len(query), np.float32), 5)
        np.testing.assert_allclose(scores, np.sort(dense[:, query].sum(axis=1))[::-1][: len(scores)], rtol=1e-5)
    assert seen == [lengths[7], lengths[[9, 12]].sum(), lengths.sum() - lengths[[7, 9, 12]].sum()]


def test_open_ended_dimensions(form):
    dims = np.array([5, 2**40, 2**62], dtype=np.int64)
    rows = Sparse(np.array([0, 2, 3]), dims[[0, 2, 1]], np.array([1, 2, 3], np.float32), (2, 2**62 + 1))
    index = Inverted()
    index.add(rows)
    scores, ids = index.postings.top(np.array([2**62, 6, 2**40, 2**63 - 1]), np.array([1, 9, 1, 9], np.float32), 5)
    assert ids.tolist() == [1, 0]
    assert scores.tolist() == [3, 2]
    assert index.postings.postings(1)[0].tolist() == [1]


def test_repeated_and_unknown_columns_and_zero_weights(form):
    postings = Postings.from_rows(np.array([0, 1, 2]), np.array([0, 1]), np.array([1, 1], np.float32), 2)
    columns, weights = np.array([0, 0, 1, 7, -1]), np.array([1, 1, 0, 5, 5], np.float32)
    scores, rows = postings.top(columns, weights, 9)
    assert rows.tolist() == [0]
    assert scores.tolist() == [2]


def test_read_only_arrays_will_do(form):
    indptr, columns, values, shape = skewed(np.random.default_rng(5), n=500, dtype=np.uint8)
    store = Postings.from_rows(indptr, columns, values, shape[1])
    stored = [np.frombuffer(array.tobytes(), dtype=array.dtype) for array in (store.indptr, store.rows, store.values)]
    again = Postings(*stored, shape[0])
    one, other = (p.top(np.array([1, 2]), np.ones(2, np.float32), 7) for p in (store, again))
    assert one[1].tolist() == other[1].tolist()


def test_an_empty_index_finds_nothing(form):
    index = Inverted()
    assert isinstance(index, Index)
    found = index.search(Sparse.from_dense(np.ones((2, 3), np.float32)), 4)
    assert found.ids.tolist() == [[-1] * 4] * 2
    assert (found.scores == -np.inf).all()


def test_scipy_rows_of_growing_width(form):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    index = Inverted()
    index.add(scipy_sparse.csr_array(np.array([[0, 1.0]])))
    index.add(scipy_sparse.coo_array(np.array([[0, 2.0, 0, 3.0]])))
    found = index.search(scipy_sparse.csr_array(np.array([[0, 1.0, 0, 1.0]])), 2)
    assert found.ids.tolist() == [[1, 0]]
    assert found.scores.tolist() == [[5.0, 1.0]]


@given(problems())
@settings(max_examples=30, deadline=None)
def test_save_and_load(tmp_path_factory, problem):
    rows, queries, allow, k = problem
    path = tmp_path_factory.mktemp("inverted") / "index"
    index = Inverted()
    index.add(Sparse.from_dense(rows))
    index.save(path)
    again = Inverted.load(path)
    check(again.search(Sparse.from_dense(queries), k, allow=allow), *problem)
    again.add(Sparse.from_dense(rows))
    assert len(again) == 2 * len(rows)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "index"
    index = Inverted()
    index.add(Sparse.from_dense(np.eye(50, dtype=np.float32)))
    index.save(path)
    good = path.read_bytes()
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :])
        with contextlib.suppress(Corrupt):
            again = Inverted.load(path)
            # Loaded all the same: the byte means nothing in a zip header.
            assert np.array_equal(again.postings.rows, index.postings.rows)
            assert np.array_equal(again.postings.values, index.postings.values)
    path.write_bytes(good[:40])
    with pytest.raises(Corrupt):
        Inverted.load(path)


def test_bad_input():
    index = Inverted()
    index.add(Sparse.from_dense(np.eye(3, dtype=np.float32)))
    query = Sparse.from_dense(np.ones((1, 3), np.float32))
    with pytest.raises(BadInput, match="k must be"):
        index.search(query, 0)
    with pytest.raises(BadInput, match=r"bool \[3\]"):
        index.search(query, 1, allow=np.ones(4, bool))
    with pytest.raises(BadInput, match="finite"):
        index.postings.top(np.array([0]), np.array([np.nan]), 1)
    with pytest.raises(BadInput, match="row 1 holds"):
        index.add(Sparse(np.array([0, 1, 2]), np.array([0, 0]), np.array([1, np.inf], np.float32), (2, 1)))
    with pytest.raises(BadInput, match="row 1 do not ascend"):
        index.add(Sparse(np.array([0, 1, 3]), np.array([5, 2, 2]), np.ones(3, np.float32), (2, 6)))
    with pytest.raises(BadInput, match="negative"):
        index.add(Sparse(np.array([0, 1]), np.array([-1]), np.ones(1, np.float32), (1, 1)))
    with pytest.raises(BadInput, match="sparse rows"):
        index.add([[1, 2]])
    with pytest.raises(BadInput, match="columns run"):
        Postings.from_rows(np.array([0, 1]), np.array([3]), np.ones(1, np.float32), 3)
    with pytest.raises(BadInput, match="column 9"):
        index.postings.postings(9)
