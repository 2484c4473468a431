"""Analysis: text to terms, in the plain and the compiled form."""

from __future__ import annotations

from collections import Counter
from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inlay.encoders.analysis import ENGLISH, LONGEST, Analyzer
from inlay.errors import BadInput
from inlay.kernels import tokens

pytest.importorskip("numba")
from inlay.kernels import tokens_numba

TRICKY = "aZ09 _-'.\n\0ßİıΣσςéÉe\u0301ñ日本語カナ々ｶ한국ไทยहिन्दीع\u0640ﬁ½²٣𝐀𠀀😀\ufe0f\u200d\u0345\ud800\U000e0100"
texts = st.lists(
    st.one_of(
        st.text(st.sampled_from(TRICKY), max_size=30),
        st.text(st.characters(), max_size=20),
        st.text(st.sampled_from("ab C1"), max_size=60),
    ),
    max_size=8,
)


def forms(values):
    return tokens._stream_plain(values), tokens._stream_compiled(values)


@given(texts)
@settings(deadline=None)
@example([])
@example([""])
@example(["", "a", "", "A b a"])
@example(["\u0301a\u0301 \u0301", "か\u3099き", "A\U00020000b", "１２ Ａ"])
def test_forms_agree_on_tokens(values):
    plain, compiled = forms(values)
    assert plain[0].tolist() == compiled[0].tolist()
    assert plain[1].tolist() == compiled[1].tolist()
    assert plain[2] == compiled[2]


@given(texts, st.sampled_from([None, "english", "german"]), st.sampled_from([None, "english", ("a", "ß")]))
@settings(max_examples=60, deadline=None)
def test_count_agrees_with_terms_in_both_forms(values, stemmer, stopwords):
    analyzer = Analyzer(stemmer, stopwords)
    with mock.patch.object(tokens, "compiled", return_value=False):
        plain = analyzer.count(values)
    with mock.patch.object(tokens, "compiled", return_value=True):
        compiled = analyzer.count(values)
    assert plain.terms == compiled.terms == sorted(plain.terms, key=lambda term: term.encode())
    for one, other in zip(plain[:4], compiled[:4]):
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()
    for i, text in enumerate(values):
        expected = Counter(analyzer.terms(text))
        row = slice(plain.indptr[i], plain.indptr[i + 1])
        assert {plain.terms[c]: n for c, n in zip(plain.columns[row], plain.counts[row])} == expected
        assert plain.lengths[i] == expected.total()
        assert (np.diff(plain.columns[row]) > 0).all()


@given(st.text(st.characters(codec="ascii")))
@settings(deadline=None)
def test_ascii_splits_where_isalnum_says(text):
    spaced = "".join(c if c.isalnum() else " " for c in text.lower())
    assert tokens.split(text) == spaced.split()


def test_every_character_below_has_one_kind():
    assert tokens._kinds(True)[:128].tolist() == tokens._kinds(False).tolist()
    for code in (*range(0, 0x20000, 37), 0x2A6DF, 0x2A6E0, 0x3FFFF):
        assert tokens._kinds(True)[code] == tokens.kind(code)


def test_what_a_token_is():
    plain = Analyzer(None, None)
    assert plain.terms("snake_case, camelCase; x2") == ["snake", "case", "camelcase", "x2"]
    assert plain.terms("日本語 and カナ") == ["日", "本", "語", "and", "カ", "ナ"]
    assert plain.terms("हिन्दी भाषा") == ["हिन्दी", "भाषा"]
    assert plain.terms("cafe\u0301 CAFÉ") == ["café", "café"]
    assert plain.terms("❤\ufe0f 1\ufe0f\u20e3") == ["1"]
    assert plain.terms("x" * 1000) == ["x" * LONGEST]
    assert Analyzer().terms("The running of the DOGS") == ["run", "dog"]
    assert Analyzer(None, ["Dogs"]).terms("the DOGS ran") == ["the", "ran"]


def test_the_hash_table_grows_between_texts_and_stays_exact():
    words = [np.base_repr(i, 36).lower() for i in range(90_000)]
    values = [" ".join(words[i : i + 700]) for i in range(0, len(words), 350)] + [" ".join(words)]
    plain, compiled = forms(values)
    assert plain[2] == compiled[2]
    assert np.array_equal(plain[1], compiled[1])


def test_equal_hashes_are_told_apart_by_their_bytes():
    data = np.frombuffer(b"8yn0iYCKYHlIj4-BwPqk GReLUrM4wMqfg9yzV3KQ " * 2, dtype=np.uint8)  # equal in FNV-1a
    kinds = np.full(128, tokens.WORD, dtype=np.uint8)
    kinds[ord(" ")] = tokens.SEPARATOR
    _, ids, first, last = tokens_numba.number_tokens(data, np.array([0, len(data)]), kinds)
    assert ids.tolist() == [0, 1, 0, 1]
    assert list(zip(first.tolist(), last.tolist())) == [(0, 20), (21, 41)]


def test_counts_saturate():
    offsets, ids = np.array([0, 70_000]), np.zeros(70_000, dtype=np.int32)
    column_of = np.zeros(1, dtype=np.int32)
    for count in (
        tokens._count_plain(offsets, ids, column_of, 1),
        tokens_numba.count_columns(offsets, ids, column_of, 1, tokens.MOST),
    ):
        assert count[2].tolist() == [tokens.MOST]
        assert count[3].tolist() == [70_000]


def test_settings_make_the_same_analyzer():
    for analyzer in (Analyzer(), Analyzer(None, None), Analyzer("german", ["und", "oder"])):
        again = Analyzer(**analyzer.settings)
        assert again.settings == analyzer.settings
        assert again.stopwords == analyzer.stopwords
    assert Analyzer().stopwords == ENGLISH
    assert repr(Analyzer(None)) == "Analyzer(stemmer=None, stopwords='english')"


def test_bad_input():
    with pytest.raises(BadInput, match="klingon"):
        Analyzer("klingon")
    with pytest.raises(BadInput, match="french"):
        Analyzer(stopwords="french")
    with pytest.raises(BadInput, match="list of texts"):
        Analyzer().count("one string")


@given(st.lists(st.text(alphabet=st.sampled_from("ab A.é“ß中 \0\u0301-9" + "x" * 3), max_size=60), max_size=12))
def test_words_in_odd_company_are_numbered_as_they_occur(texts):
    offsets, ids, distinct = tokens._stream_plain(texts)
    expected = [tokens.split(text) for text in texts]
    assert [[distinct[i] for i in ids[a:b]] for a, b in zip(offsets, offsets[1:])] == expected
    assert distinct == list(dict.fromkeys(word for words in expected for word in words))


def test_many_words_outgrow_the_table():
    texts = [" ".join(f"w{i * j % 200_003:x}" for i in range(3000)) + " " + "long" * 20 for j in range(1, 90)]
    offsets, ids, distinct = tokens._stream_plain(texts)
    assert distinct == list(dict.fromkeys(word for text in texts for word in text.split()))
    assert [distinct[i] for i in ids[offsets[50] : offsets[51]]] == texts[50].split()


@given(st.lists(st.text(max_size=40), max_size=8))
def test_posting_lists_are_the_transposed_counts(texts):
    offsets, ids, distinct = tokens.token_stream(texts)
    column_of = np.array([hash(word) % 3 - 1 for word in distinct], dtype=np.int32)
    starts, columns, counts, lengths = tokens._count_plain(offsets, ids, column_of, 2)
    indptr, rows, by_column, same = tokens.posting_lists(offsets, ids, column_of, 2)
    dense, transposed = np.zeros((len(texts), 2), int), np.zeros((2, len(texts)), int)
    for i in range(len(texts)):
        dense[i, columns[starts[i] : starts[i + 1]]] = counts[starts[i] : starts[i + 1]]
    for c in range(2):
        assert (np.diff(rows[indptr[c] : indptr[c + 1]]) > 0).all()
        transposed[c, rows[indptr[c] : indptr[c + 1]]] = by_column[indptr[c] : indptr[c + 1]]
    assert np.array_equal(dense.T, transposed)
    assert np.array_equal(lengths, same)
