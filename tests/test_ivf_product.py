"""Inverted lists of product codes: scores equal to those of decoded rows, probes, masks, faiss, files, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.codecs.coarse_product import CoarseCodes, CoarseProduct
from inlay.errors import BadInput, Corrupt, SpaceMismatch
from inlay.indexes.flat import Flat
from inlay.indexes.ivf_product import IVFProduct
from inlay.kernels.dense import normalise
from inlay.types import Index


def rows_of(n: int, dim: int = 12, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(n, dim)) + random.normal(size=(6, dim))[random.integers(6, size=n)]).astype(np.float32)


def codec_of(lists: int = 7, m: int = 3, ksub: int = 16) -> CoarseProduct:
    return CoarseProduct(m, ksub, lists=lists, iterations=3).fit(rows_of(400))


def index_of(n: int = 300, *, lists: int = 7, m: int = 3, ksub: int = 16, **given) -> IVFProduct:
    index = IVFProduct(codec_of(lists, m, ksub), **given)
    index.add(rows_of(n, seed=1))
    return index


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
@pytest.mark.parametrize(("lists", "ksub"), [(7, 16), (0, 16), (1, 256), (7, 2)])
def test_all_lists_give_what_a_scan_of_decoded_rows_gives(metric, lists, ksub):
    index = index_of(lists=lists, ksub=ksub, metric=metric, probes=99)
    rows = rows_of(300, seed=1)
    queries = rows_of(20, seed=2)
    held = normalise(rows) if metric == "cosine" else rows
    asked = normalise(queries) if metric == "cosine" else queries
    flat = Flat(12, metric="l2" if metric == "l2" else "dot")
    flat.add(index.codec.decode(index.codec.encode(held)))
    found, truth, every = index.search(queries, 10), flat.search(asked, 10), flat.search(asked, len(rows))
    np.testing.assert_allclose(found.scores, truth.scores, rtol=1e-4, atol=1e-4)
    # Equal codes tie, and rounding orders them: a row is right if its own score is the one of its place.
    own = np.empty((len(queries), len(rows)), np.float32)
    np.put_along_axis(own, every.ids, every.scores, axis=1)
    np.testing.assert_allclose(np.take_along_axis(own, found.ids, axis=1), truth.scores, rtol=1e-4, atol=1e-4)
    assert all(len(set(ids)) == 10 for ids in found.ids.tolist())


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 60), k=st.integers(1, 70), probes=st.integers(1, 9), share=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_probes_and_masks_leave_out_exactly_what_they_should(n, k, probes, share, seed):
    index = IVFProduct(CODEC, probes=probes)
    rows = rows_of(n, seed=seed) if n else np.empty((0, 12), np.float32)
    index.add(rows)
    allow = np.random.default_rng(seed).random(n) < share
    query = rows_of(1, seed=seed + 1)
    found = index.search(query, k, allow=allow)
    codes = CODEC.encode(rows)
    near = np.argsort(-(CODEC.centroids @ (query @ CODEC.rotation)[0]), kind="stable")[:probes]
    may = np.flatnonzero(allow & np.isin(codes.lists, near))
    held = found.ids[0][found.ids[0] >= 0]
    assert len(held) == min(k, len(may))
    assert np.isin(held, may).all()
    assert len(set(held.tolist())) == len(held)
    best = np.sort(CODEC.decode(codes)[may] @ query[0])[::-1][:k]
    np.testing.assert_allclose(found.scores[0][: len(held)], best, atol=1e-4)
    assert (found.scores[0][len(held) :] == -np.inf).all()


CODEC = codec_of()


def test_rows_added_in_parts_are_rows_added_at_once():
    whole, parts = index_of(), IVFProduct(codec_of())
    rows = rows_of(300, seed=1)
    for low, high in ((0, 1), (1, 120), (120, 120), (120, 300)):
        parts.add(rows[low:high])
        assert len(parts) == high
    assert np.array_equal(whole._ids, parts._ids)
    assert np.array_equal(whole._codes, parts._codes)
    assert whole.sizes.sum() == 300


@pytest.mark.parametrize("metric", ["dot", "l2"])
@pytest.mark.parametrize(("m", "ksub"), [(3, 16), (3, 256), (4, 8)])
def test_faiss_finds_the_same(metric, m, ksub):
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    index = index_of(lists=7, m=m, ksub=ksub, metric=metric, probes=3)
    theirs = index.to_faiss()
    queries = rows_of(30, seed=2)
    found, (scores, ids) = index.search(queries, 10), theirs.search(queries, 10)
    np.testing.assert_allclose(found.scores, -scores if metric == "l2" else scores, rtol=1e-3, atol=1e-3)
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.ids, ids)]) > 9.5  # equal codes tie
    assert theirs.ntotal == 300
    del index, theirs  # what owns what must not be freed twice
    with pytest.raises(BadInput, match="needs coarse centres"):
        index_of(lists=0, m=m).to_faiss()


def test_it_is_an_index_and_counts_its_bytes():
    index = index_of()
    assert isinstance(index, Index)
    assert index.nbytes == 300 * 2 + 300 * 8 + 8 * 8 + index.codec.codebook_nbytes
    assert "300 rows" in repr(index)
    assert index.search(rows_of(1)[0], 3).ids.shape == (1, 3)
    assert IVFProduct(codec_of()).search(rows_of(2), 3).ids.tolist() == [[-1] * 3] * 2


def test_it_survives_its_file_and_grows_on(tmp_path):
    index, queries = index_of(metric="l2", probes=2), rows_of(10, seed=3)
    index.save(tmp_path / "index")
    again = IVFProduct.load(tmp_path / "index")
    assert (len(again), again.nbytes, again.probes, again.metric) == (300, index.nbytes, 2, "l2")
    for one in (index, again):
        one.add(rows_of(40, seed=9))
    assert np.array_equal(index.search(queries, 5).ids, again.search(queries, 5).ids)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "index"
    index_of().save(path)
    raw = bytearray(path.read_bytes())
    for at in (12, len(raw) // 2, len(raw) - 3):
        bad = bytearray(raw)
        bad[at] ^= 8
        path.write_bytes(bad)
        with pytest.raises(Corrupt):
            IVFProduct.load(path)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(Corrupt):
        IVFProduct.load(path)
    with pytest.raises(BadInput, match="there is no ivf product index"):
        IVFProduct.load(tmp_path / "other")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"metric": "l1"}, "metric must be one of"), ({"probes": 0}, "probes must be"), ({"probes": True}, "probes")],
)
def test_bad_settings(arguments, message):
    with pytest.raises(BadInput, match=message):
        IVFProduct(CODEC, **arguments)


def test_bad_rows_and_codes_change_nothing():
    index = index_of(20)
    codes = CODEC.encode(rows_of(4))
    with pytest.raises(SpaceMismatch, match="12 dimensions, the row has 5"):
        index.add(np.ones((2, 5)))
    with pytest.raises(BadInput, match="holds NaN"):
        index.add(np.full((1, 12), np.nan))
    with pytest.raises(BadInput, match="probes"):
        index.search(rows_of(1), 3, probes=0)
    with pytest.raises(BadInput, match="k must be"):
        index.search(rows_of(1), 0)
    with pytest.raises(BadInput, match="must be a CoarseProduct"):
        IVFProduct(object())
    with pytest.raises(BadInput, match="lists go from 0 to 6"):
        IVFProduct(CODEC, CoarseCodes(codes.lists + 7, codes.codes))
    with pytest.raises(BadInput, match="expected codes uint8"):
        IVFProduct(CODEC, CoarseCodes(codes.lists, codes.codes[:, :1]))
    assert len(index) == 20
