"""The rough scan: candidates by integers against a plain product, and that its error is never understated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.kernels.dense import nearest
from inlay.kernels.sketch import candidates, rounded


@pytest.fixture
def fast(monkeypatch):
    pytest.importorskip("numba")
    from inlay.kernels.sketch_numba import multiplies_pairs

    if not multiplies_pairs():
        pytest.skip("this processor has no such instruction")
    monkeypatch.setattr("inlay.kernels.sketch.compiled", lambda work: True)


def sketched(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, size=(n, width), dtype=np.int8)
    scales = (1 / np.linalg.norm(codes.astype(np.float64), axis=1)).astype(np.float32)
    query = rng.standard_normal((1, width)).astype(np.float32)
    return query / np.linalg.norm(query), codes, scales


@pytest.mark.parametrize("width", [16, 48, 64, 112, 320])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 9), (500, 7), (3000, 200)])
def test_candidates_are_the_nearest_to_within_the_error(fast, n, width, k):
    query, codes, scales = sketched(n, width)
    found, error = candidates(query, codes, scales, k)
    scores = (codes.astype(np.float64) @ query[0].astype(np.float64)) * scales
    ids = found.ids[0][: min(n, k)]
    assert len(set(ids.tolist())) == min(n, k)
    np.testing.assert_allclose(found.scores[0][: len(ids)], scores[ids], atol=error + 1e-6)
    assert np.all(np.diff(found.scores[0][: len(ids)]) <= 0)
    left_out = np.delete(scores, ids)
    if len(left_out):
        assert left_out.max() <= found.scores[0][len(ids) - 1] + error + 1e-6
    assert (found.ids[0][n:] == -1).all()
    assert np.isneginf(found.scores[0][n:]).all()


def test_equal_scores_go_to_the_lower_id(fast):
    codes = np.tile(np.arange(16, dtype=np.int8), (400, 1))
    found, _ = candidates(np.ones((1, 16), np.float32), codes, np.ones(400, np.float32), 9)
    assert found.ids[0].tolist() == list(range(9))


def test_the_largest_numbers_do_not_overflow(fast):
    for width in (16, 4096):
        codes = np.full((3, width), 127, dtype=np.int8)
        codes[1] = -127
        query = np.ones((1, width), np.float32)
        found, _ = candidates(query, codes, np.ones(3, np.float32), 3)
        np.testing.assert_allclose(found.scores[0], [127 * width, 127 * width, -127 * width], rtol=1e-3)
        assert found.ids[0].tolist() == [0, 2, 1]


def test_where_it_does_not_fit_the_plain_scan_answers(fast):
    query, codes, scales = sketched(50, 20)  # no multiple of 16
    found, error = candidates(query, codes, scales, 5)
    plain = nearest(query, codes, 5, scales=scales)
    assert error == 0
    np.testing.assert_array_equal(found.ids, plain.ids)
    np.testing.assert_array_equal(found.scores, plain.scores)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=64))
@settings(max_examples=100, deadline=None)
def test_what_rounding_leaves_out_is_told(values):
    query = np.array(values, dtype=np.float32)
    numbers, step, error = rounded(query)
    left = np.linalg.norm(query.astype(np.float64) - numbers * np.float64(step))
    assert error == pytest.approx(left, rel=1e-9, abs=1e-30)
    assert error <= float(np.abs(query).max()) * 1e-4 * np.sqrt(len(query)) + 1e-30
