"""Codecs of whole matrices: low rank, groups by length, tensor trains, pruning, blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs import (
    Deduplicated,
    LowRankRows,
    MagnitudeLowRank,
    MagnitudePQ,
    Pruned,
    TensorTrain,
    for_budget,
    nbytes_of,
)
from inlay.codecs.magnitude import equal_norm_edges, group_of
from inlay.codecs.tensor_train import factors_of
from inlay.errors import BadInput
from inlay.types import Codec


def made(n=900, dim=24, rank=6, noise=0.2, spread=1.0, seed=0) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, rank)) @ random.standard_normal((rank, dim))
    rows += noise * random.standard_normal((n, dim))
    return (rows * np.exp(spread * random.standard_normal((n, 1)))).astype(np.float32)


def lost(codec, rows) -> float:
    return float(((rows - codec.decode(codec.encode(rows))) ** 2).sum() / (rows**2).sum())


SMALL = {
    "svd": lambda: LowRankRows(5), "mag-svd": lambda: MagnitudeLowRank(0.5, groups=3), "tt": lambda: TensorTrain(0.5),
    "mag-pq": lambda: MagnitudePQ([8, 4, 2], bits=4), "pruned": lambda: Pruned(0.4), "dedup": lambda: Deduplicated(0.5),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_shape_of_the_protocol_files_and_refusals(name, tmp_path: Path):
    rows = made()
    codec = SMALL[name]()
    assert isinstance(codec, Codec)
    assert codec.fit(rows) is codec
    codes = codec.encode(rows)
    back = codec.decode(codes)
    assert back.shape == rows.shape
    assert back.dtype == np.float32
    assert nbytes_of(codec, codes) <= len(rows) * codec.nbytes(24) * (1.01) + codec.codebook_nbytes + 4
    read = type(codec).load(codec.save(tmp_path / "c"))
    np.testing.assert_array_equal(read.decode(read.encode(rows)), back)
    assert repr(read) == repr(codec)
    with pytest.raises(BadInput, match="holds a"):
        (Pruned if name != "pruned" else TensorTrain).load(tmp_path / "c")
    bad = rows.copy()
    bad[3, 1] = np.nan
    with pytest.raises(BadInput, match="row 3"):
        codec.encode(bad)
    if name != "dedup":
        with pytest.raises(BadInput):
            codec.encode(rows[:, :7])
        with pytest.raises(BadInput, match="fit"):
            SMALL[name]().encode(rows)


@pytest.mark.parametrize(
    "name", ["float32", "float16", "int8", "pq", "mag-pq", "svd", "mag-svd", "tt", "pruned", "dedup"]
)
def test_budgets_are_kept_and_more_loses_less(name):
    rows = made(2000, 48)
    before = np.inf
    for share in (0.3, 0.5, 1.0):
        if {"float32": 1.0, "float16": 0.5}.get(name, 0.0) > share:
            with pytest.raises(BadInput, match="more than"):
                for_budget(name, rows, share)
            continue
        codec = for_budget(name, rows, share)
        codes = codec.encode(rows)
        if name != "dedup":
            assert nbytes_of(codec, codes) <= share * rows.nbytes * 1.0001
        now = lost(codec, rows)
        assert now <= before + 1e-6
        before = now
    with pytest.raises(BadInput):
        for_budget(name, rows, 0)
    with pytest.raises(BadInput, match="there is no codec"):
        for_budget("zip", rows, 0.5)


@given(st.integers(5, 40), st.integers(3, 12), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_low_rank_is_the_nearest_of_its_rank(n, dim, rank):
    rows = np.random.default_rng(n * 13 + dim).standard_normal((n, dim)).astype(np.float32)
    codec = LowRankRows(rank).fit(rows)
    s = np.linalg.svd(rows, compute_uv=False)
    assert lost(codec, rows) == pytest.approx(float((s[rank:] ** 2).sum() / (s**2).sum()), abs=1e-5)
    query = rows[0]
    codes = codec.encode(rows)
    np.testing.assert_allclose(codec.scorer(query)(codes), codec.decode(codes) @ query, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(codec.basis @ codec.basis.T, np.eye(rank), atol=1e-5)


def test_rank_of_a_budget_is_that_of_the_sheet():
    assert LowRankRows.for_budget(20_000, 384, 0.25 * 20_000 * 384 * 4).rank == int(20_000 * 384 * 0.25 / 20_384)
    assert LowRankRows.for_budget(10, 4, 1e9).rank == 4
    with pytest.raises(BadInput, match="too few"):
        LowRankRows.for_budget(100, 10, 400)


@given(st.integers(1, 300), st.integers(1, 6))
@settings(deadline=None)
def test_groups_have_equal_total_length(n, groups):
    rows = made(n, 4, 2, seed=n)
    edges = equal_norm_edges(rows, groups)
    group = group_of(rows, edges)
    norms = np.linalg.norm(rows, axis=1)
    sums = np.bincount(group, weights=norms, minlength=groups)
    assert abs(sums - norms.sum() / groups).max() <= norms.max() + 1e-3 * norms.sum()
    order = group[np.argsort(-norms, kind="stable")]
    assert (np.diff(order.astype(int)) >= 0).all()


def test_grouping_helps_rows_of_very_different_length():
    rows = made(8000, 32, 10, spread=1.2)
    assert len(for_budget("mag-pq", rows, 0.25).parts) > 1
    assert lost(for_budget("mag-pq", rows, 0.25), rows) < lost(for_budget("pq", rows, 0.25), rows)
    codec = for_budget("mag-svd", rows, 0.3)
    ranks = [len(basis) for basis in codec.bases]
    sizes = np.bincount(group_of(rows, codec.edges))
    assert ranks == sorted(ranks, reverse=True)
    assert (np.diff(sizes) > 0).all()


def test_tensor_trains_are_exact_where_the_tensor_has_that_rank():
    random = np.random.default_rng(0)
    (n1, n2, n3), (d1, d2, d3), r = (5, 4, 6), (2, 3, 4), 2
    g1, g2, g3 = (
        random.standard_normal((n1, d1, r)),
        random.standard_normal((r, n2, d2, r)),
        random.standard_normal((r, n3, d3)),
    )
    cube = np.einsum("aip,pbjq,qck->abcijk", g1, g2, g3)
    rows = cube.reshape(n1 * n2 * n3, -1).astype(np.float32)
    codec = TensorTrain(0.9).fit(rows)
    codec.rank, codec.of_rows, codec.of_dim = r, (n1, n2, n3), (d1, d2, d3)
    codes = codec.encode(rows)
    np.testing.assert_allclose(codec.decode(codes), rows, atol=1e-4)
    ids = np.array([7, 0, 119, 7])
    np.testing.assert_allclose(codec.decode(codes, ids), codec.decode(codes)[ids], atol=1e-6)
    assert codes.nbytes == codec.core_nbytes


@given(st.integers(1, 5000))
def test_factors_multiply(number):
    a, b, c = factors_of(number)
    assert a * b * c == number
    assert factors_of(384) == (6, 8, 8)


@given(st.integers(1, 30), st.integers(1, 12), st.floats(0.05, 1))
@settings(deadline=None)
def test_pruning_keeps_the_largest(n, dim, budget):
    rows = np.random.default_rng(n * 7 + dim).standard_normal((n, dim)).astype(np.float32)
    if budget * rows.nbytes < 10:
        with pytest.raises(BadInput, match="leaves no number"):
            Pruned(budget).fit(rows)
        return
    codec = Pruned(budget).fit(rows)
    codes = codec.encode(rows)
    back = codec.decode(codes)
    kept = back != 0
    assert (back[kept] == rows[kept]).all()
    if kept.any() and not kept.all():
        assert np.abs(rows[kept]).min() > np.abs(rows[~kept]).max()
    assert nbytes_of(codec, codes) <= budget * rows.nbytes
    np.testing.assert_array_equal(codec.decode(codes, np.arange(n)[::-1]), back[::-1])


def test_alike_blocks_are_stored_once():
    random = np.random.default_rng(0)
    block = random.standard_normal((10, 8)).astype(np.float32)
    near = block + np.float32(0.004) * random.choice([-1, 1], block.shape).astype(np.float32)
    other = random.standard_normal((10, 8)).astype(np.float32)
    rows = np.concatenate([block, other, near, block])
    codec = Deduplicated(block=(10, 8))
    codes = codec.encode(rows)
    assert len(codes.blocks) == 2
    back = codec.decode(codes)
    assert np.abs(back - rows).max() <= 0.01
    np.testing.assert_array_equal(back[10:20], other)
    np.testing.assert_array_equal(codec.decode(codes, np.array([35, 2, 12])), back[[35, 2, 12]])
    assert nbytes_of(codec, codes) == 2 * 320 + 4 * 4
    assert len(Deduplicated(0.8, block=(10, 8)).encode(rows).blocks) == 3  # stops when the budget is met
    assert len(Deduplicated(block=(10, 8), near=0.0).encode(rows).blocks) == 3  # exact copies only
    uneven = random.standard_normal((37, 13)).astype(np.float32)
    np.testing.assert_array_equal(codec.decode(codec.encode(uneven)), uneven)


@pytest.mark.parametrize("make", [
    lambda: LowRankRows(0), lambda: MagnitudeLowRank(0),
    lambda: MagnitudeLowRank(0.5, groups=0), lambda: TensorTrain(1.5),
    lambda: Pruned(-0.1), lambda: Deduplicated(2), lambda: Deduplicated(block=(0, 4)), lambda: Deduplicated(like=0),
    lambda: MagnitudePQ([]), lambda: LowRankRows(9).fit(np.ones((4, 4))), lambda: Pruned(0.001).fit(np.ones((4, 4))),
    lambda: TensorTrain(0.01).fit(np.ones((4, 4))), lambda: MagnitudeLowRank(0.1).fit(np.ones((4, 4))),
    lambda: MagnitudePQ.for_budget(np.ones((300, 4)), 10),
])  # fmt: skip
def test_bad_settings_are_refused(make):
    with pytest.raises(BadInput):
        make()
