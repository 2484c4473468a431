"""The compiled scans against their numpy forms, to the bit: bit planes, and what surrounds the fast scan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput
from inlay.kernels import bit_planes, fast_scan
from inlay.kernels.bit_planes import BitPlanes
from inlay.kernels.code_scan import Tables

pytest.importorskip("numba")


def numbers_of(planes, dims):
    """What bits stand for: odd integers [n, dims]."""
    bits = planes.shape[1]
    signs = np.stack([bit_planes.unpacked(planes[:, t], dims) for t in range(bits)], axis=1) * 2 - 1
    return (signs * (1 << np.arange(bits)[::-1])[:, None]).sum(axis=1)


def rows_of(random, n, dims, bits, alike):
    """Rows of random bits; `alike` draws them from few, so that many scores are equal."""
    signs = random.random((max(1, n // 20) if alike else n, bits, dims)) < 0.5
    signs = signs[random.integers(len(signs), size=n)] if alike else signs
    planes = np.stack([bit_planes.packed(signs[:, t]) for t in range(bits)], axis=1)
    if bits == 1:
        return BitPlanes(planes, np.empty(0, np.uint8))
    return BitPlanes(planes, ((numbers_of(planes, dims) ** 2).sum(axis=1) - dims).astype(np.int64) // 8)


def both(room, *args, **kwargs):
    """What `nearest` of a module gives in its numpy form and in its compiled one."""
    found = []
    for fast in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, "compiled", lambda work, fast=fast: fast)
            found.append(room.nearest(*args, **kwargs))
    return found


@settings(max_examples=60, deadline=None)
@given(
    dims=st.sampled_from([1, 7, 64, 65, 130, 600]), bits=st.sampled_from([1, 2]), asked=st.sampled_from([1, 2]),
    n=st.integers(1, 300), k=st.integers(1, 40), alike=st.booleans(), share=st.sampled_from([None, 0.0, 0.05, 0.6]),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_bit_planes_are_scanned_alike_in_both_forms(dims, bits, asked, n, k, alike, share, seed):
    random = np.random.default_rng(seed)
    rows, queries = rows_of(random, n, dims, bits, alike), rows_of(random, 3, dims, asked, False)
    allow = None if share is None else random.random(n) < share
    blocks = bit_planes.room(n, bits, rows.planes.shape[2])
    bit_planes.put(blocks, rows.planes, 0)
    plain, fast = both(bit_planes, queries, blocks, rows.levels, n, dims, k, allow=allow)
    np.testing.assert_array_equal(fast.ids, plain.ids)
    np.testing.assert_array_equal(fast.scores, plain.scores)
    a, b = numbers_of(queries.planes, dims), numbers_of(rows.planes, dims)
    cosines = a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    cosines[:, [] if allow is None else ~allow] = -np.inf
    best = -np.sort(-cosines, axis=1)[:, :k]
    np.testing.assert_allclose(fast.scores[:, : best.shape[1]], best, atol=1e-5)
    assert ((fast.ids >= 0) == np.isfinite(fast.scores)).all()


@pytest.mark.parametrize("lengths", ["of the rows", "that differ much"])
def test_a_block_is_passed_over_only_if_none_of_its_rows_can_be_among_the_best(lengths):
    """Thousands of rows, so that several chunks are read with a threshold; lengths of each chunk bound its products."""
    random = np.random.default_rng(5)
    rows, queries = rows_of(random, 9000, 96, 2, False), rows_of(random, 5, 96, 2, False)
    levels = rows.levels if lengths == "of the rows" else np.sort(random.integers(0, 96, 9000))[::-1].astype(np.uint8)
    blocks = bit_planes.room(9000, 2, 2)
    bit_planes.put(blocks, rows.planes, 0)
    for allow in (None, random.random(9000) < 0.3):
        plain, fast = both(bit_planes, queries, blocks, levels, 9000, 96, 25, allow=allow)
        np.testing.assert_array_equal(fast.ids, plain.ids)
        np.testing.assert_array_equal(fast.scores, plain.scores)


def test_scores_below_zero_are_ranked_too():
    """Every row is the opposite of the query or nearly so: no product above 0 ever sets a threshold."""
    signs = np.ones((3000, 70), dtype=bool)
    signs[np.arange(3000), np.arange(3000) % 30] = False
    rows = BitPlanes(bit_planes.packed(signs)[:, None], np.empty(0, np.uint8))
    query = BitPlanes(bit_planes.packed(np.zeros((1, 70), dtype=bool))[:, None], np.empty(0, np.uint8))
    blocks = bit_planes.room(3000, 1, 2)
    bit_planes.put(blocks, rows.planes, 0)
    plain, fast = both(bit_planes, query, blocks, rows.levels, 3000, 70, 12)
    assert (fast.scores < 0).all()
    np.testing.assert_array_equal(fast.ids, plain.ids)
    np.testing.assert_array_equal(fast.ids[0], np.arange(12))


@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([1, 2, 4, 8]), parts=st.integers(1, 40), n=st.integers(1, 400), k=st.integers(1, 50),
    queries=st.integers(1, 4), scaled=st.booleans(), masked=st.booleans(), flat=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_both_forms_of_the_fast_scan_agree_to_the_bit(bits, parts, n, k, queries, scaled, masked, flat, seed):
    random = np.random.default_rng(seed)
    codes = random.integers(0, 256, size=(n, -(-parts * bits // 8)), dtype=np.uint8)
    shape = (queries, parts, 1 << bits)
    entries = (random.integers(0, 2, shape) if flat else random.normal(size=shape)).astype(np.float32)
    views = [Tables(table, bits, float(random.normal())) for table in entries]
    factors = random.uniform(0, 2, size=n).astype(np.float32) if scaled else None
    allow = random.random(n) < 0.5 if masked else None
    blocks = fast_scan.room(n, codes.shape[1])
    fast_scan.put(blocks, codes, 0)
    plain, fast = both(fast_scan, views, blocks, n, k, factors=factors, allow=allow)
    np.testing.assert_array_equal(fast.ids, plain.ids)
    np.testing.assert_array_equal(fast.scores, plain.scores)


@settings(max_examples=30, deadline=None)
@given(parts=st.integers(1, 50), entries=st.sampled_from([16, 256]), size=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
       seed=st.integers(0, 999))  # fmt: skip
def test_tables_are_rounded_alike_in_both_forms(parts, entries, size, seed):
    from inlay.kernels.fast_scan_answer_numba import rounded_compiled

    tables = (size * np.random.default_rng(seed).normal(size=(parts, entries))).astype(np.float32)
    high, low, step, base, error = fast_scan.rounded(tables)
    own_high, own_low = np.empty(tables.shape, np.uint8), np.empty(tables.shape, np.uint8)
    others = rounded_compiled(tables, own_high, own_low)
    np.testing.assert_array_equal(own_high, high)
    np.testing.assert_array_equal(own_low, low)
    np.testing.assert_allclose(others, [step, base, error], rtol=1e-5, atol=1e-30)


def test_tables_that_do_not_fit_the_codes_are_refused():
    view = Tables(np.zeros((6, 16), np.float32), 4)
    with pytest.raises(BadInput, match="tables"):
        fast_scan.nearest([view], fast_scan.room(10, 4), 10, 3)
    rows = rows_of(np.random.default_rng(0), 10, 70, 1, False)
    with pytest.raises(BadInput, match="words"):
        bit_planes.nearest(rows, bit_planes.room(10, 1, 2), rows.levels, 10, 200, 3)
