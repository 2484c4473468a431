"""NUMEN against a literal reading of the paper, and its two kernels against each other."""

from __future__ import annotations

import math
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import inlay.kernels.ngrams as ngrams
from inlay.encoders import Numen, encoder
from inlay.errors import BadInput
from inlay.types import Sparse

# Characters of one to four bytes, the boundary marks themselves, and white space of several kinds.
LETTERS = st.text(alphabet="abAB^$ \t\n\u00a0éßİΣж中😀", max_size=60)
TEXTS = st.lists(LETTERS, max_size=6)


def as_in_the_paper(text: str, dim: int, n=(3, 4, 5), weights=(1, 5, 10)) -> np.ndarray:
    row = [0.0] * dim
    for word in text.lower().split():
        wrapped = f"^{word}$"
        for length, weight in zip(n, weights):
            for i in range(len(wrapped) - length + 1):
                row[zlib.crc32(wrapped[i : i + length].encode("utf-8")) % dim] += weight
    row = [math.log(1 + value) for value in row]
    norm = math.sqrt(sum(value * value for value in row))
    return np.array([value / norm if norm else 0.0 for value in row])


@settings(deadline=None, max_examples=60)
@given(TEXTS, st.sampled_from([1, 7, 64, 1000]))
def test_rows_are_those_of_the_paper(texts: list[str], dim: int) -> None:
    rows = Numen(dim).encode_document(texts)
    assert rows.dtype == np.float32
    assert rows.shape == (len(texts), dim)
    for text, row in zip(texts, rows):
        np.testing.assert_allclose(row, as_in_the_paper(text, dim), atol=1e-6)


def test_default_row() -> None:
    rows = encoder("numen", dim=32768).encode_document(["Who likes Quokkas?"])
    assert rows.shape == (1, 32768)
    np.testing.assert_allclose(rows[0], as_in_the_paper("Who likes Quokkas?", 32768), atol=1e-6)
    assert np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-5)


def test_other_lengths_and_weights_in_any_order() -> None:
    text = "haemoglobin β-thalassaemia"
    row = Numen(512, n=(7, 3, 1), weights=(20, 1, 0.5)).encode_query([text])[0]
    np.testing.assert_allclose(row, as_in_the_paper(text, 512, (7, 3, 1), (20, 1, 0.5)), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(TEXTS)
def test_sparse_and_dense_are_the_same_rows(texts: list[str]) -> None:
    dense, sparse = Numen(128).encode_document(texts), Numen(128, output="sparse").encode_document(texts)
    assert isinstance(sparse, Sparse)
    assert sparse.data.dtype == np.float32
    np.testing.assert_array_equal(sparse.toarray(), dense)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.sampled_from([8, 64, 512]))
def test_buckets_nest_when_halved(texts: list[str], dim: int) -> None:
    wide, narrow = Numen(2 * dim).counts(texts).toarray(), Numen(dim).counts(texts).toarray()
    np.testing.assert_array_equal(wide.reshape(len(texts), 2, dim).sum(axis=1), narrow)


def test_rows_do_not_depend_on_batches_or_company() -> None:
    texts = [f"text number {i} of " + "ab c" * (i % 5) for i in range(40)]
    whole = Numen(256).encode_document(texts)
    np.testing.assert_array_equal(Numen(256).encode_document(texts, batch_size=7), whole)
    np.testing.assert_array_equal(np.concatenate([Numen(256).encode_document([text]) for text in texts]), whole)
    sparse = Numen(256, output="sparse").encode_document(texts, batch_size=7)
    np.testing.assert_array_equal(sparse.toarray(), whole)


def test_text_without_words_is_a_zero_row_and_broken_text_no_error() -> None:
    rows = Numen(64).encode_document(["", " \n\t", "half an emoji \ud83d!", "x"])
    assert not rows[:2].any()
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows[2], as_in_the_paper("half an emoji ?!", 64), atol=1e-6)
    assert Numen(64).encode_document([]).shape == (0, 64)
    assert Numen(64, output="sparse").encode_document([]).shape == (0, 64)


def test_long_document() -> None:
    text = "rhinoceros " * 50_000 + "okapi"
    np.testing.assert_allclose(Numen(256).encode_document([text])[0], as_in_the_paper(text, 256), atol=1e-6)


def test_misspelling_is_nearer_than_another_word() -> None:
    rows = Numen(4096).encode_document(["haemoglobin", "hemoglobin", "thermodynamics"])
    assert rows[0] @ rows[1] > 0.5 > 0.1 > rows[0] @ rows[2]


# Ours: idf, sign, boundaries, stop-grams.


def test_signs_come_from_the_hash_and_cancel() -> None:
    counts = Numen(32, signed=True).counts(["alpha beta gamma"]).toarray()[0]
    want = np.zeros(32)
    for word in ("^alpha$", "^beta$", "^gamma$"):
        for n, weight in ((3, 1), (4, 5), (5, 10)):
            for i in range(len(word) - n + 1):
                crc = zlib.crc32(word[i : i + n].encode())
                want[crc % 32] += -weight if crc >> 31 else weight
    np.testing.assert_array_equal(counts, want)
    row = Numen(32, signed=True).encode_document(["alpha beta gamma"])[0]
    want = np.sign(want) * np.log1p(np.abs(want))
    np.testing.assert_allclose(row, want / np.linalg.norm(want), atol=1e-6)


def test_without_boundaries_and_without_stop_grams() -> None:
    assert Numen(999, boundaries=False).counts(["abc"]).data.tolist() == [1]
    assert Counter(Numen(999).counts(["abc"]).data.tolist()) == {1: 3, 5: 2, 10: 1}
    stopped = Numen(999, stop_grams=["^abc$", "bc$"]).counts(["ABC"])
    assert Counter(stopped.data.tolist()) == {1: 2, 5: 2}


def test_idf_is_learnt_saved_and_part_of_the_identity(tmp_path) -> None:
    texts = ["common alpha", "common beta", "common gamma", "common delta"]
    plain, fitted = Numen(8192), Numen(8192).fit(texts)
    assert fitted.spec is None
    common, rare = (zlib.crc32(gram) % 8192 for gram in (b"^comm", b"^alph"))
    assert fitted.idf[common] == pytest.approx(math.log1p(0.5 / 4.5))
    assert fitted.idf[rare] == pytest.approx(math.log1p(3.5 / 1.5))
    scores = fitted.encode_document(texts) @ fitted.encode_query(["common"])[0]
    assert (scores < plain.encode_document(texts) @ plain.encode_query(["common"])[0]).all()
    fitted.save_idf(tmp_path / "idf.npy")
    again = encoder(**fitted.spec)
    assert again.space == fitted.space != plain.space
    np.testing.assert_array_equal(again.encode_document(texts), fitted.encode_document(texts))


# Kernels


def _kernel_arguments(words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    encoded = [word.encode() for word in words]
    offsets = np.cumsum([0] + [len(word) for word in encoded]).astype(np.int64)
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(alphabet="ab^$é中😀", max_size=12), max_size=8),
    st.sampled_from([(3, 4, 5), (1,), (2, 6)]),
    st.booleans(),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=3),
)
def test_hash_kernels_agree_and_are_crc32(words: list[str], n: tuple[int, ...], signed: bool, stop: list[str]) -> None:
    pytest.importorskip("numba")
    from inlay.kernels.ngrams_numba import hash_ngrams_compiled

    weight = np.zeros(max(n) + 1)
    weight[list(n)] = np.arange(1, len(n) + 1)
    text, offsets = _kernel_arguments(words)
    stops = np.unique(np.array([zlib.crc32(gram.encode()) for gram in stop], dtype=np.uint32))
    plain = ngrams.hash_ngrams_plain(text, offsets, weight, 97, signed=signed, stop=stops)
    fast = hash_ngrams_compiled(text, offsets, weight, 97, signed, stops, ngrams.crc_table())
    for one, other in zip(plain, fast):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    want = [
        (zlib.crc32(word[i : i + m].encode()) % 97, weight[m])
        for word in words
        for i in range(len(word))
        for m in sorted(n)
        if i + m <= len(word) and zlib.crc32(word[i : i + m].encode()) not in stops
    ]
    assert list(zip(plain[1].tolist(), np.abs(plain[2]).tolist())) == want


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=12), st.sampled_from([1, 5, 1000]), st.integers(0, 9)
)
def test_sum_kernels_agree(documents: list[list[int]], dim: int, seed: int) -> None:
    pytest.importorskip("numba")
    from inlay.kernels.ngrams_numba import sum_words_compiled

    rng = np.random.default_rng(seed)
    first = np.cumsum([0, *rng.integers(0, 6, 10)]).astype(np.int64)
    buckets = rng.integers(0, dim, first[-1])
    values = rng.choice([-2.0, -1.0, 1.0, 2.0], first[-1])
    indptr = np.cumsum([0] + [len(words) for words in documents]).astype(np.int64)
    words = np.array([word for words in documents for word in words], dtype=np.int64)
    plain = ngrams.sum_words_plain(indptr, words, (first, buckets, values), dim)
    fast = sum_words_compiled(indptr, words, first, buckets, values, dim)
    for one, other in zip(plain, fast):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype
    dense = np.zeros((len(documents), dim))
    for row, found in enumerate(documents):
        for word in found:
            np.add.at(dense[row], buckets[first[word] : first[word + 1]], values[first[word] : first[word + 1]])
    shape = (len(documents), dim)
    np.testing.assert_array_equal(Sparse(*plain, shape).toarray(), dense)


@pytest.mark.parametrize("fast", [False, True])
def test_both_forms_through_the_encoder(monkeypatch, fast: bool) -> None:
    if fast:
        pytest.importorskip("numba")
    monkeypatch.setattr(ngrams, "compiled", lambda work: fast)
    texts = ["Who likes Quokkas?", "", "Øresund 東京 likes likes"]
    for text, row in zip(texts, Numen(300).encode_document(texts)):
        np.testing.assert_allclose(row, as_in_the_paper(text, 300), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"dim": 2.5},
        {"dim": True},
        {"dim": 1 << 30},
        {"n": ()},
        {"n": (3, 3), "weights": (1, 1)},
        {"n": (0,), "weights": (1,)},
        {"weights": (1, 5)},
        {"weights": (1, 5, -1)},
        {"weights": (1, 5, float("nan"))},
        {"output": "csr"},
        {"stop_grams": "ing"},
        {"idf": np.ones(3)},
        {"idf": "/no/such/file.npy"},
    ],
)
def test_bad_options(options: dict) -> None:
    with pytest.raises(BadInput):
        Numen(**options)
