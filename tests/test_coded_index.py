"""The scan of codes: every codec against brute force over decoded rows, both forms of the kernels, files, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs import Float8, Float16, Int8, MuveraFDE, ProductQuantiser, codec
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.indexes import Coded
from inlay.kernels import code_scan, fast_scan
from inlay.kernels.code_scan import KINDS, Linear, Tables, byte_tables, linear_scores, table_scores, widened

NAMES = [
    "float32", "float16", "bfloat16", "float8", "float8:e5m2", "float4", "int8", "int8-global", "int4", "steps:8",
    "steps:2", "percentiles:8", "percentiles:4", "percentiles:2", "signs:median", "itq", "ternary", "hyperplanes:100",
    "pq:6x8", "pq:6x4", "pq:5x3", "opq:6x4", "pca:0.5|float8", "pca:9|int8", "truncate:8|percentiles:4",
    "pca:8|pq:4x8",
]  # fmt: skip
SYMMETRIC = ["signs:median?symmetric=true", "hyperplanes:130?symmetric=true", "steps:8?faithful=true",
             "steps:4?faithful=true", "percentiles:8?faithful=true"]  # fmt: skip


def rows_of(n: int, dim: int = 18, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(n, dim)) * np.linspace(0.4, 1.6, dim) + 0.2).astype(np.float32)


def truth(made, rows: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """Scores of decoded rows, float64 [q, n]."""
    inner, mapped = getattr(made, "codec", made), getattr(made, "mapped", lambda x: x)
    there, asked = inner.decode(made.encode(rows)).astype(np.float64), mapped(queries).astype(np.float64)
    if getattr(inner, "faithful", False):
        asked = inner.numbers(queries).astype(np.float64)
    if metric == "cosine":
        there, asked = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (there, asked))
    return asked @ there.T


def agrees(found, scores: np.ndarray, k: int, allow: np.ndarray | None = None) -> None:
    """The k best, up to what rounding cannot tell apart."""
    if allow is not None:
        scores = np.where(allow, scores, -np.inf)
    tolerance = 2e-5 * (1 + np.abs(scores[np.isfinite(scores)]).max(initial=0))
    there = int(np.isfinite(scores[0]).sum())
    assert (found.ids[:, min(k, there) :] == -1).all()
    for row, (ids, own) in enumerate(zip(found.ids, found.scores)):
        ids, own = ids[: min(k, there)], own[: min(k, there)]
        assert len(set(ids.tolist())) == len(ids)
        np.testing.assert_allclose(own, scores[row, ids], atol=tolerance)
        np.testing.assert_allclose(own, np.sort(scores[row])[::-1][: len(ids)], atol=tolerance)
        assert (np.diff(own) <= 0).all()


@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("name", [*NAMES, *SYMMETRIC[2:]])
def test_the_best_codes_are_found_whatever_the_codec(name, metric):
    rows, queries = rows_of(700), rows_of(20, seed=5)
    made = codec(name).fit(rows)
    index = Coded(made, dim=18 if made.__class__.__name__ in ("Float32", "Float16", "Int8") else None, metric=metric)
    for part in np.split(rows, [1, 64, 130, 131, 500]):
        index.add(part)
    scores = truth(made, rows, queries, metric)
    agrees(index.search(queries, 10), scores, 10)
    agrees(index.search(queries[0], 3), scores[:1], 3)
    allow = np.random.default_rng(1).random(700) < 0.05
    agrees(index.search(queries, 50, allow=allow), scores, 50, allow)
    assert (index.search(queries, 5, allow=np.zeros(700, bool)).ids == -1).all()
    assert index.search(queries[:0], 5).ids.shape == (0, 5)
    codes = made.encode(rows)
    np.testing.assert_array_equal(index.rows, codes.codes if name.endswith("int8") else codes)
    extra = 4 if metric == "cosine" and not name.endswith("int8") else 0
    assert index.nbytes == 700 * (made.nbytes(18) + extra) + made.fixed_nbytes


@pytest.mark.parametrize("name", SYMMETRIC[:2])
def test_bits_are_counted_on_both_sides(name):
    rows, queries = rows_of(300), rows_of(9, seed=5)
    made = codec(name).fit(rows)
    index = Coded(made)
    index.add(rows[:100])
    index.add(rows[100:])
    scores = np.stack([made.scorer(query)(made.encode(rows)) for query in queries]).astype(np.float64)
    agrees(index.search(queries, 10), scores, 10)
    best = index.search(queries, 10)
    for ids, own in zip(best.ids, best.scores):  # many are equal: the lower id comes first
        assert all(a < b for a, b, x, y in zip(ids, ids[1:], own, own[1:]) if x == y)
    allow = np.arange(300) % 7 == 0
    agrees(index.search(queries, 60, allow=allow), scores, 60, allow)
    np.testing.assert_array_equal(index.rows, made.encode(rows))


@pytest.mark.parametrize("name", ["float8", "int8", "int4", "percentiles:8", "signs?symmetric=true", "pca:6|steps:4"])
@pytest.mark.parametrize("metric", ["dot", "cosine"])
def test_an_index_comes_back_from_its_file(name, metric, tmp_path):
    rows, path = rows_of(200), tmp_path / "coded"
    made = codec(name).fit(rows)
    index = Coded(made, dim=None if getattr(made, "dim", 0) else 18, metric=metric)
    index.add(rows)
    index.save(path)
    again = Coded.load(path)
    assert repr(again) == repr(index)
    before, after = (one.search(rows[:8], 12) for one in (index, again))
    np.testing.assert_array_equal(after.ids, before.ids)
    np.testing.assert_array_equal(after.scores, before.scores)
    again.add(rows[:3])
    assert len(again) == 203
    raw = path.read_bytes()
    path.write_bytes(raw[:-80])
    with pytest.raises(Corrupt):
        Coded.load(path)


@pytest.mark.parametrize("form", ["numpy", "registers", "plain"])
@settings(max_examples=20, deadline=None)
@given(
    bits=st.sampled_from([1, 2, 4, 8]), parts=st.integers(1, 60), n=st.integers(1, 300), k=st.integers(1, 40),
    scaled=st.booleans(), masked=st.booleans(), flat=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_both_forms_of_the_fast_scan_are_a_sum_of_entries(form, bits, parts, n, k, scaled, masked, flat, seed):
    if form != "numpy":
        pytest.importorskip("numba")
    random = np.random.default_rng(seed)
    numbers = random.integers(0, 1 << bits, size=(n, parts)).astype(np.uint8)
    flags = (numbers[:, :, None] >> np.arange(bits)) & 1
    codes = np.packbits(flags.reshape(n, -1).astype(np.uint8), axis=1, bitorder="little")
    entries = random.integers(0, 2, size=(parts, 1 << bits)) if flat else random.normal(size=(parts, 1 << bits))
    view = Tables(entries.astype(np.float32), bits, float(random.normal()))
    factors = random.uniform(0, 2, size=n).astype(np.float32) if scaled else None
    allow = random.random(n) < 0.5 if masked else None
    blocks = fast_scan.room(n, codes.shape[1])
    cut = int(random.integers(0, n + 1))
    fast_scan.put(blocks, codes[:cut], 0)
    fast_scan.put(blocks, codes[cut:], cut)
    np.testing.assert_array_equal(fast_scan.taken(blocks, np.arange(n)), codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_scan, "compiled", lambda work: form != "numpy")
        if form == "plain":
            patch.setattr("inlay.kernels.fast_scan_numba.looks_up", lambda entries: False)
        found = fast_scan.nearest([view], blocks, n, k, factors=factors, allow=allow)
    scores = np.take_along_axis(view.tables.astype(np.float64)[None], numbers[:, :, None].astype(int), axis=2)
    scores = (scores[:, :, 0].sum(axis=1) + view.constant) * (1 if factors is None else factors)
    agrees(found, scores[None], k, allow)
    tied = found.scores[0]
    ids = found.ids[0]
    assert all(a < b for a, b, x, y in zip(ids, ids[1:], tied, tied[1:]) if x == y and b >= 0)


def test_more_ties_than_there_is_room_for_go_to_the_lower_ids():
    pytest.importorskip("numba")
    codes = np.zeros((5000, 3), dtype=np.uint8)
    codes[4000:, 0] = 1
    blocks = fast_scan.room(5000, 3)
    fast_scan.put(blocks, codes, 0)
    view = Tables(np.tile(np.arange(16, dtype=np.float32), (6, 1)), 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_scan, "compiled", lambda work: True)
        found = fast_scan.nearest([view], blocks, 5000, 2000)
    np.testing.assert_array_equal(found.ids[0, :1000], np.arange(4000, 5000))
    np.testing.assert_array_equal(found.ids[0, 1000:], np.arange(1000))


def test_rounded_tables_are_within_the_error_they_name():
    tables = np.random.default_rng(0).normal(size=(700, 16)).astype(np.float32)  # more columns than 16 bits hold
    high, low, step, base, error = fast_scan.rounded(tables)
    assert max(high.max(), low.max()) < 128
    numbers = np.random.default_rng(1).integers(0, 16, size=(200, 700))
    exact = tables[np.arange(700), numbers].astype(np.float64).sum(axis=1)
    coarse = (high.astype(int) * 128 + low)[np.arange(700), numbers].sum(axis=1) * np.float64(step) + base
    assert (np.abs(exact - coarse) <= error).all()
    assert error < 0.2
    flat = fast_scan.rounded(np.ones((4, 16), np.float32))
    assert (flat[0].max(), flat[2], flat[3]) == (0, 0, 4)  # sums of steps of no worth, and four ones


def test_a_block_of_many_columns_is_summed_without_overflow():
    pytest.importorskip("numba")
    codes = np.full((70, 600), 0xFF, dtype=np.uint8)
    codes[1] = 0
    blocks = fast_scan.room(70, 600)
    fast_scan.put(blocks, codes, 0)
    view = Tables(np.tile(np.linspace(0, 1, 16, dtype=np.float32), (1200, 1)), 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_scan, "compiled", lambda work: True)
        found = fast_scan.nearest([view], blocks, 70, 70)
    np.testing.assert_allclose(found.scores[0, :69], 1200, rtol=1e-5)
    assert (found.ids[0, 69], found.scores[0, 69]) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("queries", [1, 5])
def test_small_floats_score_alike_in_both_forms(kind, queries):
    pytest.importorskip("numba")
    random = np.random.default_rng(0)
    if kind in ("e4m3", "e5m2"):
        codes = random.integers(0, 256, size=(203, 37)).astype(np.uint8)
        codes[(codes & 0x7F) >= (0x7F if kind == "e4m3" else 0x7C)] = 0  # no NaN, no infinity
    elif kind == "bfloat16":
        codes = (random.normal(size=(203, 37)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    else:
        codes = (random.normal(size=(203, 37)) * 20).astype(KINDS[kind])
    views = [Linear(kind, random.normal(size=37).astype(np.float32), 0.5) for _ in range(queries)]
    exact = (
        np.stack([view.vector for view in views]).astype(np.float64) @ widened(codes, kind).T.astype(np.float64) + 0.5
    )
    size = np.abs(exact).max()
    for ids in (None, np.array([3, 7, 7, 200])):
        for fast in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(code_scan, "compiled", lambda work, fast=fast: fast)
                found = linear_scores(views, codes, ids)
            np.testing.assert_allclose(found, exact if ids is None else exact[:, ids], atol=1e-5 * size)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_look_ups_by_the_byte_are_those_of_the_parts(bits):
    random = np.random.default_rng(bits)
    parts, n = 11, 50
    numbers = random.integers(0, 1 << bits, size=(n, parts))
    flags = (numbers[:, :, None] >> np.arange(bits)) & 1
    codes = np.packbits(flags.reshape(n, -1).astype(np.uint8), axis=1, bitorder="little")
    view = Tables(random.normal(size=(parts, 1 << bits)).astype(np.float32), bits, 2.0)
    exact = view.tables[np.arange(parts), numbers].sum(axis=1)
    for fast in (False, True):
        if fast:
            pytest.importorskip("numba")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(code_scan, "compiled", lambda work, fast=fast: fast)
            np.testing.assert_allclose(table_scores(byte_tables(view), codes), exact, atol=1e-5)
            np.testing.assert_allclose(code_scan.score(view, codes), exact + 2, atol=1e-5)
            np.testing.assert_allclose(
                table_scores(byte_tables(view), codes, np.array([4, 1])), exact[[4, 1]], atol=1e-5
            )


def test_refusals(tmp_path):
    rows = rows_of(300)
    with pytest.raises(BadInput, match="as a ProductQuantiser, got MuveraFDE"):
        Coded(MuveraFDE(4))
    with pytest.raises(BadInput, match="metric must be one of dot, cosine, got 'l2'"):
        Coded(Float8().fit(rows), metric="l2")
    with pytest.raises(BadInput, match="fit it, or give dim"):
        Coded(Float16())
    with pytest.raises(BadInput, match="fit it, or give dim"):
        Coded(Float8(), dim=18)
    with pytest.raises(BadInput, match="dim must be a positive integer, got 0"):
        Coded(Int8(), dim=0)
    with pytest.raises(BadInput, match="for rows of 18 numbers, not 3"):
        Coded(Float8().fit(rows), dim=3)
    index = Coded(ProductQuantiser(3, bits=4).fit(rows))
    with pytest.raises(SpaceMismatch):
        index.add(rows[:, :5])
    with pytest.raises(SpaceMismatch):
        index.search(rows[:, :5], 3)
    with pytest.raises(BadInput, match=r"expected codes uint8 \[n, 2\], got uint8 \[3, 9\]"):
        index.add_codes(np.zeros((3, 9), np.uint8))
    with pytest.raises(BadInput, match="k must be"):
        index.search(rows[0], 0)
    half = Coded(Float16(), dim=18)
    with pytest.raises(BadInput, match="float16 ends at 65504"):
        half.add(np.concatenate([rows, np.full((1, 18), 1e6)]))
    assert len(half) == 0
    for view in (Tables(np.zeros((3, 8), np.float32), 3), Tables(np.zeros((3, 8), np.float32), 4)):
        with pytest.raises(BadInput):
            byte_tables(view)
        with pytest.raises(BadInput):
            fast_scan.register_tables(view)
    with pytest.raises(BadInput, match="expected codes"):
        linear_scores([Linear("int8", np.zeros(3, np.float32))], np.zeros((2, 3), np.uint8))
    with pytest.raises(BadInput, match="expected codes"):
        table_scores(np.zeros((3, 256), np.float32), np.zeros((2, 4), np.uint8))
