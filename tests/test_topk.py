"""The running threshold against a full sort, in both forms."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.kernels.topk import TopK, top_k

FORMS = [False, pytest.param(True, marks=pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="no numba"))]


def brute(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((np.arange(len(scores)), -scores))[:k]
    order = order[scores[order] > -np.inf]
    pad = k - len(order)
    return (
        np.append(scores[order], np.full(pad, -np.inf)).astype(np.float32),
        np.append(order, np.full(pad, -1)).astype(np.int64),
    )


@pytest.mark.parametrize("fast", FORMS)
@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(0, 400)),
    distinct=st.integers(1, 7),
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 90),
    cuts=st.lists(st.integers(0, 400), max_size=4),
)
def test_agrees_with_a_full_sort(fast, shape, distinct, seed, k, cuts):
    # Few distinct values, so that ties straddle the k-th place most of the time.
    scores = np.random.default_rng(seed).integers(-3, distinct - 3, shape).astype(np.float32)
    scores[scores == -3] = -np.inf
    best = TopK(len(scores), k, fast=fast)
    ends = sorted({min(cut, scores.shape[1]) for cut in cuts} | {0, scores.shape[1]})
    for start, stop in zip(ends, ends[1:]):
        best.offer(np.ascontiguousarray(scores[:, start:stop]), start)
    found = best.result()
    for query in range(len(scores)):
        expected = brute(scores[query], k)
        np.testing.assert_array_equal(found.scores[query], expected[0])
        np.testing.assert_array_equal(found.ids[query], expected[1])


@pytest.mark.parametrize("fast", FORMS)
@pytest.mark.parametrize("order", ["ascending", "descending", "random", "equal"])
@pytest.mark.parametrize("k", [1, 10, 1000, 5000])
def test_any_order_of_arrival(fast, order, k):
    n = 5000
    scores = {
        "ascending": np.arange(n),
        "descending": -np.arange(n),
        "random": np.random.default_rng(0).standard_normal(n),
        "equal": np.zeros(n),
    }[order].astype(np.float32)
    best = TopK(1, k, fast=fast)
    for start in range(0, n, 700):
        best.offer(scores[None, start : start + 700].copy(), start)
    expected = brute(scores, k)
    np.testing.assert_array_equal(best.result().ids[0], expected[1])


def test_mask_padding_and_one_dimension():
    found = top_k(np.array([3.0, 9.0, 9.0, 1.0]), 3, allow=np.array([True, False, True, False]))
    assert found.ids.tolist() == [[2, 0, -1]]
    assert found.scores.tolist() == [[9.0, 3.0, -np.inf]]


def test_k_must_be_positive():
    with pytest.raises(BadInput, match="got 0"):
        top_k(np.ones(3), 0)


def test_numba_is_loaded_for_many_small_calls_as_for_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from inlay import kernels

    pytest.importorskip("numba")
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.setattr(kernels, "_done", 0)
    small = kernels.WORTH_COMPILING // 10
    asked = [kernels.compiled(small) for _ in range(10 * kernels.PATIENCE + 2)]
    assert not any(asked[: 10 * kernels.PATIENCE - 1])
    assert all(asked[10 * kernels.PATIENCE :])
    monkeypatch.setattr(kernels, "_done", 0)
    assert kernels.compiled(kernels.WORTH_COMPILING)
