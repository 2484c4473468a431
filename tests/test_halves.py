"""Int8 rows in two planes: nothing is lost, the bounds hold, and all rows that could be among the best are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs import Int8
from inlay.kernels.halves import Halves, contenders, join, split


@pytest.fixture(params=[False, True], ids=["numpy", "compiled"])
def form(request, monkeypatch):
    if request.param:
        pytest.importorskip("numba")
        from inlay.kernels.sketch_numba import multiplies_pairs

        if not multiplies_pairs():
            pytest.skip("this processor has no such instruction")
    monkeypatch.setattr("inlay.kernels.halves.compiled", lambda work: request.param)
    return request.param


def sketched(rows: np.ndarray, width: int) -> Halves:
    codes, scales = Int8().encode(rows)
    high, low, rests = split(codes, width)
    lengths = np.linalg.norm(rows.astype(np.float64) - codes * scales[:, None].astype(np.float64), axis=1)
    off = max((length / scale for length, scale in zip(lengths, scales) if scale > 0), default=0.0)
    return Halves(high, low, scales, rests, rows.shape[1], float(off))


def unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def best(query: np.ndarray, rows: np.ndarray, k: int) -> set[int]:
    """Every row that scores what the k-th best does, or more."""
    scores = rows.astype(np.float64) @ query[0].astype(np.float64)
    return set(np.flatnonzero(scores >= np.sort(scores)[::-1][k - 1]).tolist())


def spread(n: int, dim: int, seed: int) -> np.ndarray:
    """Rows of clusters of all tightnesses, with spikes, zeros and copies among them."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((7, dim))
    rows = centres[rng.integers(7, size=n)] + rng.choice([0.01, 0.3, 2], size=(n, 1)) * rng.standard_normal((n, dim))
    rows[::11, 0] *= 40
    rows[5::50] = 0
    rows[7::40] = rows[n // 2]
    return unit(rows)


@given(st.integers(1, 40), st.integers(0, 3), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_no_bit_is_lost_and_rests_bound_the_low_halves(dim, more, seed):
    codes = np.random.default_rng(seed).integers(-128, 128, size=(9, dim), dtype=np.int8)
    width = (dim + 1) // 2 * 2 + 2 * more
    high, low, rests = split(codes, width)
    assert high.shape == low.shape == (9, width // 2)
    back = join(high, low)
    np.testing.assert_array_equal(back[:, :dim], codes)
    assert not back[:, dim:].any()
    halves = Halves(high, low, np.ones(9, np.float32), rests, dim)
    lengths = np.linalg.norm((codes & 15) - 7.5, axis=1)
    assert np.all(rests * halves.unit >= lengths)
    assert np.all(rests * halves.unit <= lengths + 3 * halves.unit)


def test_the_longest_rest_fits():
    for dim in (1, 300, 4096):
        _, _, rests = split(np.full((1, dim), 15, np.int8), dim + dim % 2)
        assert 61_000 < rests[0] < 1 << 16


@pytest.mark.parametrize("dim", [16, 30, 64, 90, 300])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 3), (63, 63), (500, 7), (3000, 40)])
def test_all_rows_that_can_be_among_the_best_are_found(form, n, k, dim):
    rows = spread(n, dim, n + dim)
    halves = sketched(rows, -(-dim // 32) * 32)
    rng = np.random.default_rng(1)
    for query in (rows[:1], rows[-1:], unit(rng.standard_normal((1, dim))), unit(np.eye(1, dim))):
        found = contenders(query, halves, k, 1e-6)
        assert np.all(np.diff(found) > 0)
        assert found.dtype == np.int64
        assert best(query, rows, k) <= set(found.tolist())


def test_few_rows_are_found_where_few_can_be(form):
    rows = unit(np.random.default_rng(0).standard_normal((4000, 96)))
    halves = sketched(rows, 96)
    for row in range(0, 4000, 400):
        assert contenders(rows[row : row + 1], halves, 1, 1e-6).tolist() == [row]
        assert 10 <= len(contenders(rows[row : row + 1], halves, 10, 1e-6)) < 60


@pytest.mark.parametrize("n", [700, 9000])
def test_rows_that_are_all_alike_all_come_back(form, n):
    rows = np.tile(unit(np.arange(1, 33)[None]), (n, 1))
    assert contenders(rows[:1], sketched(rows, 32), 3, 1e-6).tolist() == list(range(n))


def test_rows_too_close_for_four_bits_are_told_apart_by_eight(form):
    # Every row's upper bound reaches the best: the high halves rule out none.
    rng = np.random.default_rng(2)
    rows = unit(np.sign(rng.standard_normal((1, 64))) + 0.15 * rng.standard_normal((20_000, 64)))
    halves = sketched(rows, 64)
    for row in (0, 19_999):
        found = contenders(rows[row : row + 1], halves, 5, 1e-6)
        assert best(rows[row : row + 1], rows, 5) <= set(found.tolist())
        assert len(found) < 10_000


def test_many_rows_of_several_streams(form):
    # More rows than one round of the streams holds, and no multiple of anything.
    rng = np.random.default_rng(3)
    rows = unit(rng.standard_normal((4 * 8192 + 777, 256)))
    halves = sketched(rows, 256)
    for row in (0, 8191, 8192, 32_767, 32_768, len(rows) - 1):
        query = unit(rows[row : row + 1] + 0.05 * rng.standard_normal((1, 256)))
        assert best(query, rows, 4) <= set(contenders(query, halves, 4, 1e-6).tolist())


def test_a_query_of_zeros_finds_all(form):
    rows = spread(300, 32, 0)
    found = contenders(np.zeros((1, 32), np.float32), sketched(rows, 32), 4, 1e-6)
    assert found.tolist() == list(range(300))


def test_a_width_that_does_not_fit_is_scanned_by_numpy(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.setattr("inlay.kernels.halves.compiled", lambda work: True)
    rows = spread(100, 20, 4)
    assert best(rows[:1], rows, 5) <= set(contenders(rows[:1], sketched(rows, 20), 5, 1e-6).tolist())


@given(st.integers(0, 10_000), st.integers(1, 30), st.floats(0, 0.1))
@settings(max_examples=40, deadline=None)
def test_both_forms_find_the_same_but_for_rows_at_the_limit(seed, k, off):
    pytest.importorskip("numba")
    rows = spread(400, 64, seed)
    halves = sketched(rows, 64)
    found = {}
    for name, compiled in (("numpy", False), ("compiled", True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("inlay.kernels.halves.compiled", lambda work, compiled=compiled: compiled)
            found[name] = set(contenders(rows[:1], halves, k, off).tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inlay.kernels.halves.compiled", lambda work: False)
        wider = set(contenders(rows[:1], halves, k, off + 1e-3).tolist())
    assert found["numpy"] - found["compiled"] == set()
    assert found["compiled"] <= wider
