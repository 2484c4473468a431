"""Moments, maps into fewer dimensions, their composition, and codecs behind maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs import Chain, EqualSteps, Float8, Float16, Int8, OptimisedProduct, ProductQuantiser, Signs, codec
from inlay.errors import BadInput, Corrupt, MissingExtra, SpaceMismatch
from inlay.spaces import (
    PCA,
    UMAP,
    Autoencoder,
    Composed,
    KernelPCA,
    Moments,
    RandomProjection,
    Truncate,
    Whitening,
)
from inlay.types import Codec, SpaceMap


def skewed(n: int = 600, dim: int = 12, seed: int = 0, off: float = 0.0) -> np.ndarray:
    """Rows on correlated axes of falling variance."""
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(99).normal(size=(dim, dim)))[0]
    return (random.normal(size=(n, dim)) * 0.7 ** np.arange(dim) @ axes + off).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 80), max_size=4), off=st.sampled_from([0.0, 1.0, 1e4]), seed=st.integers(0, 20))
def test_moments_of_parts_add_up_to_those_of_the_whole(cuts, off, seed):
    rows = skewed(80, 5, seed, off)
    parts = np.split(rows, sorted(cuts))
    streamed = Moments()
    merged = Moments()
    for part in parts:
        streamed.add(part)
        merged = merged + Moments.of(part)
    exact = rows.astype(np.float64)
    for one in (streamed, merged):
        assert (one.n, one.dim) == (80, 5)
        np.testing.assert_allclose(one.mean, exact.mean(axis=0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(one.covariance, np.cov(exact.T), rtol=1e-7, atol=1e-9 * max(off, 1))
        np.testing.assert_allclose(one.second, exact.T @ exact / 80, rtol=1e-10, atol=1e-9)
    values, axes = streamed.principal()
    assert (np.diff(values) <= 1e-12).all()
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-9)


def test_moments_are_kept_in_a_file_and_refuse_what_does_not_fit(tmp_path):
    made = Moments.of(skewed())
    again = Moments.load(made.save(tmp_path / "moments"))
    assert again.n == made.n
    np.testing.assert_array_equal(again.covariance, made.covariance)
    raw = (tmp_path / "moments").read_bytes()
    (tmp_path / "moments").write_bytes(raw[:-80])
    with pytest.raises(Corrupt):
        Moments.load(tmp_path / "moments")
    with pytest.raises(SpaceMismatch):
        made.add(skewed(3, 7))
    with pytest.raises(SpaceMismatch):
        made + Moments.of(skewed(3, 7))
    with pytest.raises(BadInput, match="at least 2"):
        _ = Moments.of(skewed(1)).covariance
    with pytest.raises(BadInput, match="at least 1"):
        _ = Moments().mean
    with pytest.raises(BadInput, match="row 1 holds NaN"):
        Moments.of(np.array([[1.0], [np.nan]]))


def test_principal_components_are_those_of_a_library_and_take_the_same_mean_off_queries():
    library = pytest.importorskip("sklearn.decomposition")
    rows, queries = skewed(off=2.0), skewed(20, seed=5, off=2.0)
    ours, theirs = PCA(4).fit(rows), library.PCA(4, svd_solver="full").fit(rows)
    np.testing.assert_allclose(np.abs(ours.transform(queries)), np.abs(theirs.transform(queries)), atol=1e-4)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-4)
    assert ours.share == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-4)
    np.testing.assert_allclose(
        ours.inverse_transform(ours.transform(queries)), theirs.inverse_transform(theirs.transform(queries)), atol=1e-4
    )
    streamed = PCA(4).fit_moments(Moments.of(rows[:100]) + Moments.of(rows[100:]))
    np.testing.assert_allclose(streamed.transform(queries), ours.transform(queries), atol=1e-4)
    assert PCA(0.5).fit(rows).width == 6
    assert PCA(12).fit(rows).transform(queries).shape == (20, 12)


def test_no_other_axes_keep_more():
    rows = skewed()
    centred = rows - rows.mean(axis=0)
    kept = {
        name: float((one.transform(centred) ** 2).sum()) for name, one in {
            "pca": PCA(3).fit(centred), "truncate": Truncate(3).fit(centred),
        }.items()
    }  # fmt: skip
    assert kept["pca"] > kept["truncate"]
    assert kept["pca"] == pytest.approx(float(np.sort(np.linalg.svd(centred)[1] ** 2)[::-1][:3].sum()), rel=1e-4)


def test_a_random_projection_keeps_dot_products_on_average():
    rows = skewed(40, 64)
    truth = rows @ rows.T
    mean = np.mean(
        [(made := RandomProjection(16, seed=seed).fit(rows).transform(rows)) @ made.T for seed in range(200)], axis=0
    )
    assert np.abs(mean - truth).max() < 0.15 * np.abs(truth).max()
    np.testing.assert_array_equal(Truncate(5).fit(rows).transform(rows), rows[:, :5])
    np.testing.assert_array_equal(Truncate(5).fit(rows).inverse_transform(rows[:, :5])[:, 5:], 0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 30), off=st.sampled_from([0.0, 3.0]))
def test_affine_maps_collapse_into_one(seed, off):
    rows = skewed(100, 10, seed, off)
    composed = (PCA(8) | RandomProjection(9, seed=seed) | PCA(5) | Truncate(3)).fit(rows)
    assert composed.collapsed
    one_by_one = rows
    for one in composed.maps:
        one_by_one = one.transform(one_by_one)
    np.testing.assert_allclose(composed.transform(rows), one_by_one, atol=1e-4)
    assert composed.nbytes == 4 * (10 + 10 * 3 + 3)
    assert composed.inverse_transform(composed.transform(rows)).shape == rows.shape
    assert not (PCA(8) | KernelPCA(4)).fit(rows).collapsed
    white = (PCA(8) | Whitening(4)).fit(rows)
    assert white.collapsed
    np.testing.assert_allclose(white.transform(rows).std(axis=0, ddof=1), 1, atol=1e-3)


REDUCERS = {
    "pca": lambda: PCA(5),
    "share": lambda: PCA(0.5),
    "truncate": lambda: Truncate(5),
    "projection": lambda: RandomProjection(5, seed=2),
    "composed": lambda: PCA(8) | Truncate(5),
    "mixed": lambda: PCA(8) | Whitening(5),
    "cosine": lambda: KernelPCA(5, sample=80),
    "rbf": lambda: KernelPCA(5, kernel="rbf", gamma=0.5, sample=80),
    "autoencoder": lambda: Autoencoder(5, epochs=2),
}


@pytest.mark.parametrize("name", REDUCERS)
def test_maps_are_seeded_and_come_back_from_a_file(name, tmp_path):
    if name in ("cosine", "rbf"):
        pytest.importorskip("sklearn")
    if name == "autoencoder":
        pytest.importorskip("torch")
    rows, path = skewed(off=1.0), tmp_path / "map"
    made = REDUCERS[name]()
    assert isinstance(made, SpaceMap)
    assert not made.fitted
    assert made.fit(rows) is made
    mapped = made.transform(rows)
    assert mapped.shape == (len(rows), made.width)
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(REDUCERS[name]().fit(rows).transform(rows), mapped)
    again = type(made).load(made.save(path))
    assert repr(again) == repr(made)
    np.testing.assert_allclose(again.transform(rows), mapped, atol=1e-6)
    raw = path.read_bytes()
    path.write_bytes(raw[:-80])
    with pytest.raises(Corrupt):
        type(made).load(path)
    with pytest.raises(BadInput, match="call fit"):
        REDUCERS[name]().transform(rows)
    with pytest.raises(SpaceMismatch):
        made.transform(rows[:, :-1])


@pytest.mark.parametrize("kernel", ["cosine", "poly", "rbf"])
def test_kernel_components_are_those_of_a_library(kernel):
    library = pytest.importorskip("sklearn.decomposition")
    rows, queries = skewed(120), skewed(15, seed=3)
    ours = KernelPCA(3, kernel=kernel, gamma=0.3).fit(rows).transform(queries)
    options = {} if kernel == "cosine" else {"gamma": 0.3}
    theirs = library.KernelPCA(3, kernel=kernel, eigen_solver="dense", **options).fit(rows).transform(queries)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4)


def test_an_autoencoder_learns_to_make_rows_again():
    pytest.importorskip("torch")
    rows = skewed(2000)
    before, after = (
        float(((made.inverse_transform(made.transform(rows)) - rows) ** 2).sum() / (rows**2).sum())
        for made in (Autoencoder(6, epochs=n, batch_size=32).fit(rows) for n in (1, 15))
    )
    assert after < 0.5 * before
    assert after < 0.2


def test_umap_is_named_where_it_is_missing(tmp_path):
    try:
        import umap  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match="umap-learn"):
            UMAP(2).fit(skewed(50))
    with pytest.raises(BadInput, match="cannot be kept in a file"):
        UMAP(2).save(tmp_path / "umap")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: PCA(0), "keep must be"),
        (lambda: PCA(1.0), "keep must be"),
        (lambda: PCA(True), "keep must be"),
        (lambda: PCA(13).fit(skewed()), "do not have 13 axes"),
        (lambda: PCA(2).fit(skewed(1)), "at least 2 rows"),
        (lambda: Truncate(13).fit(skewed()), "take at most 12"),
        (lambda: RandomProjection(2.5), "dims must be a positive whole number"),
        (lambda: RandomProjection(2, seed=-1), "seed must be"),
        (lambda: KernelPCA(2, kernel="linear"), "kernel must be one of"),
        (lambda: KernelPCA(50).fit(skewed(20)), "more than as many rows"),
        (lambda: Autoencoder(2, lr=2), "lr must be"),
        (lambda: Composed([PCA(2)]), "at least two maps"),
        (lambda: KernelPCA(2, sample=50).fit(skewed()).inverse_transform(skewed(2, 2)), "no way back"),
        (lambda: PCA(2).save("/tmp/never"), "call fit"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(BadInput, match=says):
        make()


CHAINS = {
    "pca | float8": lambda: PCA(6) | Float8(),
    "share | int8": lambda: PCA(0.5) | Int8(),
    "two | steps": lambda: PCA(8) | Truncate(6) | EqualSteps(4),
    "projection | signs": lambda: RandomProjection(16) | Signs("median"),
    "whitening | float16": lambda: Whitening(6) | Float16(),
    "pca | product": lambda: PCA(6) | ProductQuantiser(3, bits=4),
    "pca | rotated product": lambda: PCA(6) | OptimisedProduct(3, 16, 2),
    "map | chain": lambda: PCA(8) | (Truncate(6) | Float8()),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_map_and_a_codec_are_a_codec(name, tmp_path):
    rows, query = skewed(off=0.5), skewed(1, seed=8, off=0.5)[0]
    made = CHAINS[name]()
    assert isinstance(made, Chain)
    assert isinstance(made, Codec)
    with pytest.raises(BadInput, match="call fit"):
        made.save(tmp_path / "chain")
    assert made.fit(rows) is made
    assert made.dim == 12
    codes = made.encode(rows)
    taken = sum(part.nbytes for part in codes) if isinstance(codes, tuple) else codes.nbytes
    assert taken == len(rows) * made.nbytes(12)
    # The query is mapped once; scores are dot products in the space of the codes.
    there = made.codec.decode(codes) @ made.map.transform(query[None])[0]
    np.testing.assert_allclose(made.scorer(query)(codes), there, atol=1e-4)
    assert made.decode(codes).shape == rows.shape
    assert made.fixed_nbytes >= made.map.nbytes > 0
    again = Chain.load(made.save(tmp_path / "chain"))
    assert repr(again) == repr(made)
    np.testing.assert_array_equal(again.decode(again.encode(rows)), made.decode(codes))
    np.testing.assert_allclose(again.scorer(query)(codes), there, atol=1e-4)
    raw = (tmp_path / "chain").read_bytes()
    (tmp_path / "chain").write_bytes(raw[:-80])
    with pytest.raises(Corrupt):
        Chain.load(tmp_path / "chain")


def test_half_the_axes_in_float8_are_an_eighth_of_the_bytes():
    rows = skewed(2000, 64)
    made = codec("pca:0.5|float8").fit(rows)
    assert made.nbytes(64) == 64 * 4 // 8
    assert made.fixed_nbytes == 4 * (64 + 64 * 32) + 4
    assert (PCA(0.5) | Float8()).nbytes(64) == 32  # known before it is fitted
    # Centring and casting lose no more than the axes left out do.
    left_out = 1 - made.map.share
    whole = float(((made.decode(made.encode(rows)) - rows) ** 2).sum() / ((rows - rows.mean(axis=0)) ** 2).sum())
    assert whole == pytest.approx(left_out, abs=2e-3)


def test_chains_refuse_what_is_no_map_or_no_codec():
    with pytest.raises(BadInput, match="begins with a map"):
        Chain(Float8(), Float8())
    with pytest.raises(BadInput, match="ends with a codec"):
        Chain(PCA(2), PCA(2))
    with pytest.raises(TypeError):
        PCA(2) | 3
    with pytest.raises(TypeError):
        3 | Float8()
    fitted = (PCA(4) | Float8()).fit(skewed())
    with pytest.raises(BadInput, match="one query"):
        fitted.scorer(np.zeros((2, 12)))
    with pytest.raises(SpaceMismatch):
        fitted.scorer(np.zeros(11))
    kernel = (KernelPCA(3, sample=50) | Float8()).fit(skewed())
    with pytest.raises(BadInput, match="no way back"):
        kernel.decode(kernel.encode(skewed(2)))
    with pytest.raises(Corrupt):
        Chain.restored(fitted.arrays(), {"map": {"class": "Moments", "settings": {}}, "codec": {}})


def test_an_object_of_scikit_learn_may_come_first():
    library = pytest.importorskip("sklearn.decomposition")
    rows = skewed()
    made = Chain(library.TruncatedSVD(4), Float16()).fit(rows)
    codes = made.encode(rows)
    assert codes.shape == (600, 4)
    assert made.scorer(rows[0])(codes).shape == (600,)


def test_whitening_joins_like_any_affine_map() -> None:
    from inlay.codecs import Float32
    from inlay.spaces import Whitening

    rows = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32) * np.arange(1, 13, dtype=np.float32)
    joined = (Whitening(8) | Truncate(3)).fit(rows)
    assert joined.collapsed
    np.testing.assert_allclose(joined.transform(rows), Whitening(8).fit(rows).transform(rows)[:, :3], atol=1e-4)
    chain = (Whitening(8) | Float32()).fit(rows)
    assert chain.nbytes(12) == 32
