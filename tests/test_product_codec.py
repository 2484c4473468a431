"""Product quantisation: nearest centres, scores without decoding, bytes, files, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs import NormPQ, ProductQuantiser
from inlay.codecs.kmeans import _fill, assign, kmeans
from inlay.codecs.product import pack_codes, unpack_codes
from inlay.errors import BadInput, Corrupt
from inlay.types import Codec


def rows_of(n: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def spread_rows(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Rows whose lengths span three orders of magnitude, as a classifier's do."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * 10 ** random.uniform(-2, 1, size=(n, 1))).astype(np.float32)


@given(n=st.integers(1, 9), parts=st.integers(1, 13), bits=st.integers(1, 16), seed=st.integers(0, 99))
def test_packed_codes_come_back(n, parts, bits, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, size=(n, parts)).astype(np.uint16)
    packed = pack_codes(codes, bits)
    assert packed.shape == (n, -(-parts * bits // 8))
    np.testing.assert_array_equal(unpack_codes(packed, bits, parts), codes)


@settings(max_examples=25, deadline=None)
@given(dim=st.integers(1, 9), bits=st.integers(1, 5), cut=st.integers(1, 9), by=st.booleans(), seed=st.integers(0, 9))
def test_codes_name_the_nearest_centre_of_every_part(dim, bits, cut, by, seed):
    cut = min(cut, dim)
    codec = ProductQuantiser(bits=bits, seed=seed, **({"parts": cut} if by else {"dsub": cut}))
    rows = rows_of(60, dim, seed)
    codes = codec.fit(rows).encode(rows)
    assert codes.nbytes == len(rows) * codec.nbytes(dim)
    numbers, decoded = codec.numbers(codes), codec.decode(codes)
    assert decoded.shape == rows.shape
    assert decoded.dtype == np.float32
    for part, (low, high) in enumerate(zip(codec.edges, codec.edges[1:])):
        far = ((rows[:, None, low:high].astype(float) - codec.centres[part]) ** 2).sum(axis=2)
        np.testing.assert_allclose(far[np.arange(len(rows)), numbers[:, part]], far.min(axis=1), atol=1e-5)
    query = rows_of(1, dim, seed + 1)[0]
    np.testing.assert_allclose(codec.scorer(query)(codes), decoded @ query, atol=1e-4)
    np.testing.assert_allclose(
        codec.scorer(query, "l2")(codes), -((decoded - query) ** 2).sum(axis=1), atol=1e-3, rtol=1e-4
    )


def test_the_last_part_is_narrower_where_dsub_does_not_divide():
    codec = ProductQuantiser(dsub=4, bits=3).fit(rows_of(40, 10))
    assert codec.edges == [0, 4, 8, 10]
    assert [centres.shape for centres in codec.centres] == [(8, 4), (8, 4), (8, 2)]


def test_centres_are_means_of_their_rows_and_no_worse_than_a_library_finds():
    cluster = pytest.importorskip("sklearn.cluster")
    rows = rows_of(2000, 2)
    ours = kmeans(rows, 32, iterations=25)
    nearest = assign(rows, ours)
    error = ((rows - ours[nearest]) ** 2).sum()
    theirs = cluster.KMeans(32, init="random", n_init=1, max_iter=25, random_state=0).fit(rows).inertia_
    assert error < 1.1 * theirs
    settled = kmeans(rows, 32, iterations=500)
    means = np.stack([rows[assign(rows, settled) == centre].mean(axis=0) for centre in range(32)])
    np.testing.assert_allclose(settled, means, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_an_empty_centre_takes_half_of_a_populous_one(scale):
    # Nine of ten rows are equal, so that about two of the first centres differ; splitting finds the others.
    rows = np.concatenate([np.zeros((900, 2)), rows_of(100, 2) + 3]).astype(np.float32) * np.float32(scale)
    centres = kmeans(rows, 16, seed=1)
    assert len(np.unique(assign(rows, centres))) >= 12
    held, some = np.array([10, 0, 1]), np.zeros((3, 2), dtype=np.float32)
    some[0] = some[2] = 5
    _fill(some, held, 11, np.float32(1e-3), np.random.default_rng(0))
    assert held.tolist() == [5, 5, 1]  # never of the centre that has a single row
    np.testing.assert_allclose(some[0] + some[1], 10)
    assert (some[0] != some[1]).all()


def test_as_many_rows_as_centres_are_kept_exactly():
    rows = rows_of(256, 6)
    codec = ProductQuantiser(parts=3).fit(rows)
    np.testing.assert_allclose(codec.decode(codec.encode(rows)), rows, atol=1e-6)


def test_lengths_apart_are_worth_their_byte():
    rows = spread_rows(4000, 10)
    whole, apart = ProductQuantiser(dsub=2).fit(rows), NormPQ(dsub=2).fit(rows)
    assert apart.nbytes(10) == whole.nbytes(10) + 1

    def relative(codec):
        error = np.linalg.norm(codec.decode(codec.encode(rows)) - rows, axis=1) / np.linalg.norm(rows, axis=1)
        return float(np.median(error))

    assert relative(apart) < relative(whole) / 2


def test_norm_codes_decode_to_level_times_unit_row_and_score_without_decoding():
    rows = spread_rows(600, 7)
    codec = NormPQ(dsub=3).fit(rows)
    codes = codec.encode(rows)
    assert sum(part.nbytes for part in codes) == len(rows) * codec.nbytes(7)
    assert (np.diff(codec.levels) >= 0).all()
    unit = codec.parts.decode(codes.codes)
    np.testing.assert_allclose(codec.decode(codes), unit * codec.levels[codes.norms][:, None])
    query = rows_of(1, 7)[0]
    np.testing.assert_allclose(codec.scorer(query)(codes), codec.decode(codes) @ query, atol=1e-4)
    zero = codec.decode(codec.encode(np.zeros((1, 7), dtype=np.float32)))
    assert np.isfinite(zero).all()


@pytest.mark.parametrize("make", [lambda: ProductQuantiser(parts=3, bits=5), lambda: NormPQ(dsub=2)])
def test_fits_the_protocol_is_seeded_and_comes_back_from_a_file(make, tmp_path):
    rows = spread_rows(500, 7)
    codec = make()
    assert isinstance(codec, Codec)
    assert codec.fit(rows) is codec
    again = make().fit(rows)
    np.testing.assert_array_equal(codec.decode(codec.encode(rows)), again.decode(again.encode(rows)))
    loaded = type(codec).load(codec.save(tmp_path / "codec"))
    assert repr(loaded) == repr(codec)
    assert loaded.codebook_nbytes == codec.codebook_nbytes
    np.testing.assert_array_equal(loaded.decode(loaded.encode(rows)), codec.decode(codec.encode(rows)))
    assert codec.decode(codec.encode(rows[:0])).shape == (0, 7)

    data = bytearray((tmp_path / "codec").read_bytes())
    for at in range(0, len(data), 37):
        broken = data.copy()
        broken[at] ^= 16
        (tmp_path / "broken").write_bytes(broken)
        try:
            read = type(codec).load(tmp_path / "broken")
        except (Corrupt, BadInput):
            continue
        # Only the padding of the header carries nothing.
        np.testing.assert_array_equal(read.decode(read.encode(rows)), codec.decode(codec.encode(rows)))
    (tmp_path / "short").write_bytes(data[: len(data) // 2])
    with pytest.raises(Corrupt, match="short"):
        type(codec).load(tmp_path / "short")


def test_refusals():
    with pytest.raises(BadInput, match="256 centres a part and cannot be fitted on 255 rows; lower bits to 7"):
        ProductQuantiser(parts=2).fit(rows_of(255, 4))
    with pytest.raises(BadInput, match="256 levels"):
        NormPQ(bits=4).fit(rows_of(255, 4))
    with pytest.raises(BadInput, match="either parts or dsub"):
        ProductQuantiser()
    with pytest.raises(BadInput, match="bits must be from 1 to 16, got 0"):
        ProductQuantiser(2, bits=0)
    with pytest.raises(BadInput, match="cannot be cut into 5 parts"):
        ProductQuantiser(5, bits=1).fit(rows_of(9, 4))
    with pytest.raises(BadInput, match="call fit"):
        ProductQuantiser(2).encode(rows_of(3, 4))
    with pytest.raises(BadInput, match="call fit"):
        NormPQ().encode(rows_of(3, 4))
    codec = ProductQuantiser(2, bits=2).fit(rows_of(9, 4))
    with pytest.raises(BadInput, match="rows of 4 numbers, got 5"):
        codec.encode(rows_of(3, 5))
    with pytest.raises(BadInput, match="row 0 holds NaN"):
        codec.encode(np.full((1, 4), np.nan))
    with pytest.raises(BadInput, match="expected codes uint8"):
        codec.decode(np.zeros((3, 4), dtype=np.uint8))
    with pytest.raises(BadInput, match="metric"):
        codec.scorer(np.zeros(4), "cosine")
    with pytest.raises(BadInput, match="there is no"):
        ProductQuantiser.load("/nonexistent/codec")


def test_a_file_of_another_kind_is_named(tmp_path):
    NormPQ().fit(rows_of(300, 4)).save(tmp_path / "norms")
    with pytest.raises(BadInput, match="holds a norm product quantiser, not a product quantiser"):
        ProductQuantiser.load(tmp_path / "norms")
