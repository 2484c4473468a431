"""MaxSim against a double loop in float64, in all stored types and both forms; residual codes; ball carving."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs.ball_carving import carve
from inlay.codecs.residual import ResidualCodes, ResidualTokens
from inlay.codecs.scalar import Int8
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.kernels import maxsim as kernel
from inlay.kernels.maxsim import maxsim
from inlay.types import Codec

NUMBA = pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="no numba")
RNG = np.random.default_rng(11)


@pytest.fixture(params=["numpy", pytest.param("numba", marks=NUMBA)])
def form(request, monkeypatch):
    monkeypatch.setattr(kernel, "compiled", lambda work: request.param == "numba")
    return request.param


def bags_of(lengths: list[int], dim: int, rng: np.random.Generator = RNG) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return rng.standard_normal((int(offsets[-1]), dim)).astype(np.float32), offsets


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def oracle(query: np.ndarray, values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The definition, written out."""
    scores = []
    for low, high in zip(offsets, offsets[1:]):
        if low == high:
            scores.append(-np.inf)
            continue
        scores.append(sum(max(float(q @ p) for p in values[low:high].astype(float)) for q in query.astype(float)))
    return np.array(scores)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("q", "dim"), [(1, 1), (3, 7), (8, 16), (9, 31), (17, 64), (32, 33), (40, 128)])
def test_scores_are_the_definition(form, dtype, q, dim):
    values, offsets = bags_of([1, 0, 5, 6, 7, 13, 0, 0, 30, 2, 0], dim)
    query, scales = RNG.standard_normal((q, dim)).astype(np.float32), None
    if dtype == "int8":
        stored, scales = Int8().encode(values)
        values = stored * scales[:, None]
    else:
        stored = values.astype(dtype)
        values = stored.astype(np.float32)
    truth = oracle(query, values, offsets)
    found = maxsim(query, stored, offsets, scales=scales)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth, rtol=1e-4, atol=2e-4 * q)
    ids = np.array([9, 1, 4, 4, 0, 8])
    np.testing.assert_allclose(
        maxsim(query, stored, offsets, scales=scales, ids=ids), truth[ids], rtol=1e-4, atol=2e-4 * q
    )
    assert maxsim(query, stored, offsets, scales=scales, ids=ids[:0]).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
@NUMBA
def test_int8_is_multiplied_exactly_where_the_query_is_integers(data):
    # Integers whose largest is the number of steps are their own rounding.
    q, dim = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    lengths = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=8))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    stored = rng.integers(-127, 128, (int(offsets[-1]), dim)).astype(np.int8)
    query = rng.integers(-50, 51, (q, dim)).astype(np.float32)
    query[:, 0] = 32767  # the largest step
    from inlay.kernels import maxsim_numba

    words, steps = kernel._paired(query)
    assert (steps[:q] == 1).all()
    out = np.empty(len(lengths), dtype=np.float32)
    ones = np.ones(len(stored), dtype=np.float32)
    views = [kernel._plain(array) for array in (stored, ones)]
    maxsim_numba.score_int8(words, steps, q, views[0], views[1], offsets, None, out)
    truth = oracle(query, stored, offsets)
    np.testing.assert_allclose(out, truth, rtol=3e-7)


@NUMBA
def test_int8_sums_do_not_leave_32_bits(form):
    dim = 2048
    stored = np.full((3, dim), 127, dtype=np.int8)
    query = np.full((2, dim), 3.0, dtype=np.float32)
    found = maxsim(query, stored, np.array([0, 3]), scales=np.full(3, 0.5, dtype=np.float32))
    np.testing.assert_allclose(found, [2 * dim * 3 * 63.5], rtol=1e-3)


def test_blocks_join(form, monkeypatch):
    values, offsets = bags_of([3, 0, 40, 1, 2, 7], 12)
    query = RNG.standard_normal((5, 12)).astype(np.float32)
    whole = maxsim(query, values, offsets)
    monkeypatch.setattr(kernel, "VALUES_AT_ONCE", 1)
    np.testing.assert_allclose(maxsim(query, values, offsets), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole, oracle(query, values, offsets), rtol=1e-4, atol=1e-4)


@NUMBA
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_document_scores_the_same_wherever_it_lies(monkeypatch, dtype):
    """Whole tiles are read in place, ends are copied: to the bit the same, also of rows that are not contiguous."""
    monkeypatch.setattr(kernel, "compiled", lambda work: True)
    tiled, offsets = bags_of([30, 1, 24, 5, 0, 47], 33)
    values, query = tiled.astype(dtype), RNG.standard_normal((20, 33)).astype(np.float32)
    whole = maxsim(query, values, offsets)
    ids = np.array([5, 0, 4, 2, 2, 1, 3])
    np.testing.assert_array_equal(maxsim(query, values, offsets, ids=ids), whole[ids])
    wide = np.zeros((2 * len(values), 34), dtype=dtype)
    wide[::2, :33] = values
    np.testing.assert_array_equal(maxsim(query, wide[::2, :33], offsets), whole)
    for low, high, score in zip(offsets, offsets[1:], whole):
        for first in range(low, high):  # of the tokens from any one on, with tiles that begin elsewhere
            parts = [maxsim(query[:1], values[a:b], np.array([0, b - a])) for a, b in ((low, first + 1), (first, high))]
            assert max(parts) == maxsim(query[:1], values[low:high], np.array([0, high - low]))
        assert (maxsim(query, values[low:high], np.array([0, high - low])) == score).all()


def test_nothing_on_either_side(form):
    values, offsets = bags_of([2, 0], 4)
    assert maxsim(np.empty((0, 4), np.float32), values, offsets).tolist() == [0, -np.inf]
    assert maxsim(values, values[:0], np.array([0, 0, 0])).tolist() == [-np.inf] * 2
    assert maxsim(values, values[:0], np.array([0])).shape == (0,)


def test_memory_mapped_tokens(form, tmp_path):
    values, offsets = bags_of([4, 9], 8)
    np.save(tmp_path / "tokens.npy", values)
    mapped = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    np.testing.assert_allclose(maxsim(values[:3], mapped, offsets), maxsim(values[:3], values, offsets), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": np.ones((2, 5))}, SpaceMismatch, "4 dimensions, the query's 5"),
        ({"query": np.ones(4)}, BadInput, r"\[q, dim\]"),
        ({"query": np.array([[1, 1, 1, 1], [1, np.nan, 1, 1]])}, BadInput, "query token 1 holds NaN"),
        ({"values": np.ones((6, 4))}, BadInput, "float64"),
        ({"values": np.ones((6, 4), np.int8)}, BadInput, "come with scales"),
        ({"scales": np.ones(6, np.float32)}, BadInput, "come with scales"),
        ({"values": np.ones((6, 4), np.int8), "scales": np.ones(5, np.float32)}, BadInput, "as many scales, got 5"),
        ({"offsets": np.array([0, 7])}, BadInput, "offsets must ascend from 0 to at most 6"),
        ({"offsets": np.array([0, 4, 2])}, BadInput, "ascend"),
        ({"ids": np.array([2])}, BadInput, "numbers from 0 to 1"),
        ({"ids": np.array([-1])}, BadInput, "numbers from 0 to 1"),
    ],
)
def test_bad_input_is_named(change, error, message):
    values, offsets = bags_of([4, 2], 4)
    given = {"query": values[:2], "values": values, "offsets": offsets} | change
    with pytest.raises(error, match=message):
        maxsim(given.pop("query"), given.pop("values"), given.pop("offsets"), **given)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("shared", [False, True])
def test_residual_tokens_are_scored_as_they_decode(form, bits, shared):
    values, offsets = bags_of([5, 0, 11, 6, 1, 90], 19)
    values = unit(values) if bits != 4 else values
    codec = ResidualTokens(bits, centroids=9, shared=shared).fit(values)
    assert codec.unit == (bits != 4)
    codes = codec.encode(values)
    assert codes.residuals.nbytes + codes.centroids.nbytes == len(values) * codec.nbytes(19)
    decoded = codec.decode(codes)
    if codec.unit:
        np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, rtol=1e-5)
    query = unit(RNG.standard_normal((10, 19)).astype(np.float32))
    truth = oracle(query, decoded, offsets)
    np.testing.assert_allclose(codec.scorer(query)(codes, offsets), truth, rtol=1e-4, atol=1e-4)
    ids = np.array([5, 1, 0])
    np.testing.assert_allclose(codec.scorer(query)(codes, offsets, ids), truth[ids], rtol=1e-4, atol=1e-4)


def test_residual_buckets_are_quantiles_and_more_bits_are_nearer():
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((4000, 12)) * np.linspace(0.2, 3, 12)).astype(np.float32)
    errors = {}
    for bits in (1, 2, 4, 8):
        for shared in (False, True):
            codec = ResidualTokens(bits, centroids=16, shared=shared).fit(values)
            codes = codec.encode(values)
            errors[bits, shared] = float(np.square(codec.decode(codes) - values).mean())
            if not shared and bits == 2:
                buckets = (codes.residuals[:, :, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & 3
                counts = np.stack([np.bincount(column, minlength=4) for column in buckets.reshape(4000, 12).T])
                assert np.abs(counts / 4000 - 0.25).max() < 0.01
    # Each level is worth more than half of the error that was left; a dimension's own buckets are worth having.
    for shared in (False, True):
        ordered = [errors[bits, shared] for bits in (1, 2, 4, 8)]
        assert all(after < before / 2 for before, after in zip(ordered, ordered[1:]))
    assert errors[2, False] < errors[2, True]
    assert isinstance(ResidualTokens(), Codec)


def test_residual_tokens_come_back_from_a_file(tmp_path):
    values = unit(RNG.standard_normal((300, 10)).astype(np.float32))
    codec = ResidualTokens(2, centroids=8, seed=5).fit(values)
    again = ResidualTokens(2, centroids=8, seed=5).fit(values)
    for a, b in zip(codec.encode(values), again.encode(values)):
        np.testing.assert_array_equal(a, b)
    loaded = ResidualTokens.load(codec.save(tmp_path / "codec"))
    assert repr(loaded) == repr(codec)
    np.testing.assert_array_equal(loaded.decode(loaded.encode(values)), codec.decode(codec.encode(values)))
    (tmp_path / "short").write_bytes((tmp_path / "codec").read_bytes()[:-40])
    with pytest.raises(Corrupt):
        ResidualTokens.load(tmp_path / "short")


def test_residual_refusals():
    for bits in (0, 3, True):
        with pytest.raises(BadInput, match="bits must be one of 1, 2, 4, 8"):
            ResidualTokens(bits)
    with pytest.raises(BadInput, match="centroids"):
        ResidualTokens(centroids=0)
    with pytest.raises(BadInput, match="call fit"):
        ResidualTokens().encode(np.ones((2, 4)))
    with pytest.raises(BadInput, match="9 centroids need"):
        ResidualTokens(centroids=9).fit(np.ones((3, 4)))
    with pytest.raises(BadInput, match="nothing to learn"):
        ResidualTokens().fit(np.ones((0, 4)))
    values = RNG.standard_normal((50, 4)).astype(np.float32)
    codec = ResidualTokens(centroids=4).fit(values)
    with pytest.raises(BadInput, match="4 numbers, got 5"):
        codec.encode(np.ones((2, 5)))
    with pytest.raises(BadInput, match="row 1 holds NaN"):
        codec.encode(np.array([[1, 1, 1, 1], [1, 1, np.nan, 1]]))
    codes = codec.encode(values)
    with pytest.raises(BadInput, match="decode takes what encode gave"):
        codec.decode(ResidualCodes(codes.centroids, codes.residuals[:, :0]))
    with pytest.raises(BadInput, match="name centroid 9"):
        codec.decode(ResidualCodes(np.full(50, 9, np.uint16), codes.residuals))


def test_carving_groups_as_written():
    near = np.array([[1, 0, 0], [0, 1, 0], [0.9, 0.1, 0], [0, 0.8, 0.6], [0.1, 0, 1]], dtype=np.float32)
    np.testing.assert_allclose(carve(near, 0.7), [[1.9, 0.1, 0], [0, 1.8, 0.6], [0.1, 0, 1]], rtol=1e-6)
    # Greedy: a token goes with the first that is near, though another be nearer.
    chain = unit(np.array([[1, 0], [1, 1], [0, 1]], dtype=np.float32))
    np.testing.assert_allclose(carve(chain, 0.7), [chain[0] + chain[1], chain[2]], rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 12), st.integers(0, 99), st.floats(-1, 1.1))
def test_carving_keeps_the_sum_and_never_raises_a_score(q, seed, tau):
    rng = np.random.default_rng(seed)
    query = unit(rng.standard_normal((q, 6)).astype(np.float32)) if q else np.empty((0, 6), np.float32)
    groups = carve(query, tau)
    assert len(groups) <= q
    np.testing.assert_allclose(groups.sum(axis=0), query.sum(axis=0), atol=1e-5)
    values, offsets = bags_of([4, 3, 9], 6, rng)
    exact = oracle(query, values, offsets)
    assert (oracle(groups, values, offsets) <= exact + 1e-4).all()
    if tau > 1.01:
        np.testing.assert_array_equal(groups, query)


def test_carving_refuses():
    with pytest.raises(BadInput, match="tau must be a finite number"):
        carve(np.ones((2, 3)), float("nan"))
    with pytest.raises(BadInput, match="finite tokens"):
        carve(np.full((2, 3), np.nan))
