"""Optimised product quantisation: rotations, codes of rows and of residuals, files, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs.coarse_product import CoarseCodes, CoarseProduct
from inlay.codecs.kmeans import assign
from inlay.codecs.product import ProductQuantiser
from inlay.codecs.rotation import OptimisedProduct, balanced_axes, procrustes
from inlay.errors import BadInput, Corrupt
from inlay.types import Codec


def skewed(n: int = 1500, dim: int = 16, seed: int = 0) -> np.ndarray:
    """Rows whose axes are correlated and of very different variance: what a rotation is for."""
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(random.normal(size=(dim, dim)))[0]
    return (random.normal(size=(n, dim)) * 0.7 ** np.arange(dim) @ axes).astype(np.float32)


def error(codec, rows: np.ndarray) -> float:
    return float(((codec.decode(codec.encode(rows)) - rows) ** 2).sum(axis=1).mean())


def orthogonal(rotation: np.ndarray) -> bool:
    return np.allclose(rotation.T @ rotation, np.eye(len(rotation)), atol=1e-5) and np.linalg.det(rotation) > 0.99


def test_the_rotation_stays_one_and_every_turn_leaves_less():
    codec = OptimisedProduct(4, 16, 15, seed=1).fit(skewed())
    assert orthogonal(codec.rotation)
    assert (np.diff(codec.errors) < 1e-5 * codec.errors[0]).all()
    assert codec.errors[-1] < 0.98 * codec.errors[0]
    assert codec.errors[-1] == pytest.approx(error(codec, skewed()), rel=1e-4)
    assert codec.codebooks.shape == (4, 16, 4)


def test_it_loses_less_than_plain_codes_and_no_more_than_a_library():
    rows = skewed(1000)
    plain = error(ProductQuantiser(4, bits=4).fit(rows), rows)
    ours = error(OptimisedProduct(4, 16, 25).fit(rows), rows)
    assert ours < 0.8 * plain
    assert error(OptimisedProduct(4, 16, 0).fit(rows), rows) == pytest.approx(plain, rel=0.05)
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    theirs = faiss.index_factory(16, "OPQ4,PQ4x4")
    theirs.train(rows)
    assert ours < 1.03 * float(((theirs.sa_decode(theirs.sa_encode(rows)) - rows) ** 2).sum(axis=1).mean())


@settings(max_examples=20, deadline=None)
@given(m=st.integers(1, 4), wide=st.integers(1, 4), bits=st.integers(1, 4), seed=st.integers(0, 50))
def test_codes_name_the_nearest_centres_of_rotated_rows(m, wide, bits, seed):
    rows = np.random.default_rng(seed).normal(size=(40, m * wide)).astype(np.float32)
    codec = OptimisedProduct(m, 1 << bits, 3, seed=seed).fit(rows)
    codes = codec.encode(rows)
    assert codes.nbytes == len(rows) * codec.nbytes(m * wide)
    numbers, turned, books = codec.numbers(codes), rows @ codec.rotation, codec.codebooks
    for part in range(m):
        own = turned[:, part * wide : (part + 1) * wide]
        far = ((own[:, None].astype(float) - books[part]) ** 2).sum(axis=2)
        np.testing.assert_allclose(far[np.arange(len(rows)), numbers[:, part]], far.min(axis=1), atol=1e-4)
    query = np.random.default_rng(seed + 1).normal(size=m * wide).astype(np.float32)
    np.testing.assert_allclose(codec.scorer(query)(codes), codec.decode(codes) @ query, atol=1e-4)
    apart = ((codec.decode(codes) - query) ** 2).sum(axis=1)
    np.testing.assert_allclose(codec.scorer(query, "l2")(codes), -apart, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(m=st.sampled_from([1, 2, 4]), seed=st.integers(0, 99))
def test_axes_are_dealt_out_to_equal_products(m, seed):
    rows = skewed(300, 8, seed)
    axes = balanced_axes(rows, m)
    assert orthogonal(axes)
    variances = (rows @ axes).var(axis=0)
    logs = np.log(variances).reshape(m, -1).sum(axis=1)
    assert np.ptp(logs) <= np.ptp(np.log(variances)) + 1e-3


@given(dim=st.integers(1, 6), seed=st.integers(0, 99))
def test_no_rotation_is_nearer_than_procrustes(dim, seed):
    random = np.random.default_rng(seed)
    rows, wanted = (random.normal(size=(20, dim)).astype(np.float32) for _ in range(2))
    best = procrustes(rows, wanted)
    assert orthogonal(best)
    left = ((rows @ best - wanted) ** 2).sum()
    for _ in range(20):
        other = np.linalg.qr(random.normal(size=(dim, dim)))[0]
        if np.linalg.det(other) < 0:
            other[:, 0] *= -1
        assert ((rows @ other - wanted) ** 2).sum() > left - 1e-3
    turned = rows @ np.linalg.qr(random.normal(size=(dim, dim)))[0]
    assert np.abs(np.linalg.det(procrustes(rows, turned.astype(np.float32))) - 1) < 1e-4


def test_residual_codes_lose_less_and_their_lists_are_the_nearest():
    rows = skewed(3000)
    rows += np.random.default_rng(3).integers(0, 2, size=(3000, 1)).astype(np.float32) * 4  # two clouds
    whole, rest = CoarseProduct(4, 16, lists=0).fit(rows), CoarseProduct(4, 16, lists=8).fit(rows)
    flat = OptimisedProduct(4, 16, 25).fit(rows)
    assert error(whole, rows) == pytest.approx(error(flat, rows))
    assert error(rest, rows) < 0.8 * error(whole, rows)
    assert error(rest, rows) < 0.95 * error(CoarseProduct(4, 16, lists=8, rotate=False).fit(rows), rows)
    codes = rest.encode(rows)
    assert np.array_equal(codes.lists, assign(rows @ rest.rotation, rest.centroids))
    assert orthogonal(rest.rotation)
    assert (rest.nbytes(16), codes.nbytes) == (3, 3000 * 2)
    assert np.array_equal(rest.packed(rest.numbers(codes.codes)), codes.codes)


def test_they_are_codecs_and_count_their_bytes():
    rows = skewed(300)
    flat, rest = OptimisedProduct(4, 8, 2).fit(rows), CoarseProduct(4, 8, lists=3, iterations=2).fit(rows)
    assert isinstance(flat, Codec)
    assert isinstance(rest, Codec)
    assert flat.codebook_nbytes == 4 * (16 * 16 + 8 * 16)
    assert rest.codebook_nbytes == flat.codebook_nbytes + 4 * 3 * 16
    assert "m=4" in repr(flat)
    assert "lists=3" in repr(rest)
    assert (flat.nbytes(16), rest.nbytes(16)) == (2, 3)


@pytest.mark.parametrize("kind", [OptimisedProduct, CoarseProduct])
def test_they_survive_their_files_and_damaged_ones_are_refused(kind, tmp_path):
    rows, path = skewed(300), tmp_path / "codec"
    codec = kind(4, 8, iterations=2, seed=4).fit(rows)
    codec.save(path)
    again = kind.load(path)
    assert again.settings() == codec.settings()
    np.testing.assert_array_equal(again.decode(again.encode(rows)), codec.decode(codec.encode(rows)))
    raw = bytearray(path.read_bytes())
    for at in (12, len(raw) // 2, len(raw) - 5):
        bad = bytearray(raw)
        bad[at] ^= 16
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            kind.load(path)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(Corrupt):
        kind.load(path)
    with pytest.raises(BadInput, match="there is no"):
        kind.load(tmp_path / "other")


def test_of_takes_what_was_learnt_elsewhere_and_nothing_that_does_not_fit():
    rows = skewed(300)
    made = CoarseProduct(4, 8, lists=3, iterations=2).fit(rows)
    same = CoarseProduct.of(made.rotation, made.centroids, made.codebooks)
    np.testing.assert_array_equal(same.decode(same.encode(rows)), made.decode(made.encode(rows)))
    with pytest.raises(BadInput, match="must be orthogonal"):
        OptimisedProduct.of(made.rotation * 1.1, made.codebooks)
    with pytest.raises(BadInput, match="expected a rotation"):
        OptimisedProduct.of(made.rotation[:8, :8], made.codebooks)
    with pytest.raises(BadInput, match="expected finite coarse centres"):
        CoarseProduct.of(made.rotation, made.centroids[:, :4], made.codebooks)
    with pytest.raises(Corrupt, match="do not fit their settings"):
        CoarseProduct.restored(made.arrays(), made.settings() | {"lists": 4})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"m": 0}, "m must be an integer of at least 1, got 0"),
        ({"m": 4, "ksub": 10}, "power of two up to 65536, got 10; take 8"),
        ({"m": 4, "iterations": -1}, "iterations"),
        ({"m": 4, "seed": "a"}, "seed"),
        ({"m": True}, "m must be"),
    ],
)
def test_bad_settings(arguments, message):
    for kind in (OptimisedProduct, CoarseProduct):
        with pytest.raises(BadInput, match=message):
            kind(**arguments)
    for wrong in ({"lists": -1}, {"rotate": 1}, {"coarse_iterations": 0}, {"iterations": 0}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            CoarseProduct(4, **wrong)


def test_bad_rows():
    rows = skewed(300)
    codec = OptimisedProduct(4, 8, 2)
    with pytest.raises(BadInput, match="call fit"):
        codec.encode(rows)
    with pytest.raises(BadInput, match="cannot be cut into 4 equal parts; take m=3"):
        codec.fit(rows[:, :9])
    with pytest.raises(BadInput, match="lower ksub to 4"):
        codec.fit(rows[:5])
    with pytest.raises(BadInput, match="row 2 holds NaN"):
        codec.fit(np.where(np.arange(300)[:, None] == 2, np.nan, rows))
    with pytest.raises(BadInput, match="fitted on rows of 16 numbers, got 4"):
        codec.fit(rows).encode(rows[:, :4])
    with pytest.raises(BadInput, match="one query"):
        codec.scorer(rows[0, :4])
    with pytest.raises(BadInput, match="take fewer lists"):
        CoarseProduct(4, 8, lists=500).fit(rows)
    rest = CoarseProduct(4, 8, lists=3, iterations=2).fit(rows)
    codes = rest.encode(rows)
    with pytest.raises(BadInput, match="from 0 to 2"):
        rest.decode(CoarseCodes(codes.lists + 1, codes.codes))
