"""BM25 against its formula, against itself under change, and against bm25s."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inlay.encoders.bm25 import BM25, idf, saturation
from inlay.errors import BadInput, Corrupt
from inlay.types import Encoder, Sparse

texts = st.lists(
    st.lists(
        st.sampled_from(["cat", "cats", "dog", "the", "fish", "Fish", "über", "日本", "x1", "running"]), max_size=12
    ).map(" ".join),
    min_size=1,
    max_size=12,
)


def brute_force(documents, query, terms, k1, b):
    bags = [Counter(terms(d)) for d in documents]
    mean = sum(bag.total() for bag in bags) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for term in terms(query):
            df = sum(term in other for other in bags)
            if bag[term]:
                norm = k1 * (1 - b + b * bag.total() / mean)
                score += math.log(1 + (len(bags) - df + 0.5) / (df + 0.5)) * bag[term] / (bag[term] + norm)
        scores.append(score)
    return np.array(scores)


def product(queries: Sparse, documents: Sparse) -> np.ndarray:
    width = max(queries.shape[1], documents.shape[1])
    dense = [Sparse(s.indptr, s.indices, s.data, (s.shape[0], width)).toarray() for s in (queries, documents)]
    return dense[0] @ dense[1].T


def statistics(bm25):
    return bm25.n_documents, bm25.total_length, bm25.document_frequencies


@given(texts, texts, st.floats(0, 3), st.floats(0, 1))
@settings(deadline=None)
def test_query_times_document_is_bm25(documents, queries, k1, b):
    bm25 = BM25(k1=k1, b=b)
    rows = bm25.encode_document(documents)
    scores = product(bm25.encode_query(queries), rows)
    for query, row in zip(queries, scores):
        np.testing.assert_allclose(row, brute_force(documents, query, bm25.analyzer.terms, k1, b), atol=2e-5)


@given(texts, texts, texts)
@settings(deadline=None)
def test_documents_come_and_go_exactly(first, second, third):
    bm25 = BM25().fit(first).partial_fit(second).partial_fit(third).remove(second)
    fresh = BM25().fit(first + third)
    assert statistics(bm25) == statistics(fresh)
    np.testing.assert_allclose(
        product(bm25.encode_query(third), bm25.encode_document(first)),
        product(fresh.encode_query(third), fresh.encode_document(first)),
        rtol=1e-5,
    )


@given(texts, texts)
@settings(deadline=None)
def test_encoding_after_fit_changes_no_statistics_and_moves_no_column(first, second):
    bm25 = BM25().fit(first)
    before, rows = statistics(bm25), bm25.encode_document(first)
    columns = dict(bm25.vocabulary)
    bm25.encode_document(second)
    assert statistics(bm25) == before
    assert columns.items() <= bm25.vocabulary.items()
    again = bm25.encode_document(first)
    assert again.indices.tolist() == rows.indices.tolist()
    assert again.data.tolist() == rows.data.tolist()
    for i in range(len(rows)):
        assert (np.diff(rows.indices[rows.indptr[i] : rows.indptr[i + 1]]) > 0).all()


@given(texts, st.data())
@settings(max_examples=40, deadline=None)
def test_remove_refuses_strangers_and_then_changes_nothing(documents, data):
    bm25 = BM25().fit(documents)
    before = statistics(bm25)
    stranger = data.draw(st.sampled_from(["zebra", "cat " * 200, "the cat zebra"]))
    assume(BM25().analyzer.terms(stranger))
    with pytest.raises(BadInput, match="never added"):
        bm25.remove([stranger])
    assert statistics(bm25) == before


@given(texts)
@settings(max_examples=30, deadline=None)
def test_save_and_load(tmp_path_factory, documents):
    path = tmp_path_factory.mktemp("bm25") / "bm25.json"
    bm25 = BM25(k1=0.9, b=0.4, stemmer=None, stopwords=["über"]).fit(documents)
    bm25.save(path)
    again = BM25.load(path)
    assert statistics(again) == statistics(bm25)
    assert again.settings == bm25.settings
    assert again.space == bm25.space
    assert again.encode_query(documents).data.tolist() == bm25.encode_query(documents).data.tolist()
    assert again.encode_document(documents).indices.tolist() == bm25.encode_document(documents).indices.tolist()


def test_load_refuses_what_is_not_bm25(tmp_path):
    path = tmp_path / "bm25.json"
    BM25().fit(["a cat", "a dog"]).save(path)
    state = json.loads(path.read_text())
    for broken in ("", "[]", "{}", json.dumps({**state, "df": [1]}), json.dumps({**state, "terms": ["cat", "cat"]})):
        path.write_text(broken)
        with pytest.raises(Corrupt, match="BM25 encoder"):
            BM25.load(path)


def test_fits_the_protocol_and_knows_its_settings():
    assert isinstance(BM25(), Encoder)
    assert BM25().space.kind == "sparse"
    assert BM25().space.metric == "dot"
    assert BM25().space == BM25().space
    assert BM25().space.fingerprint != BM25(b=0.5).space.fingerprint != BM25(stemmer=None).space.fingerprint
    bm25 = BM25(k1=2, stopwords=["x"])
    name, *settings_ = json.loads(json.dumps(bm25.spec)).items()
    assert name == ("name", "bm25")
    assert BM25(**dict(settings_)).space == bm25.space
    assert repr(bm25) == "BM25(k1=2.0, b=0.75, stemmer='english', stopwords=['x'])"
    assert bm25.fit(["a cat"]).spec is None  # settings alone would not make it again


def test_parts():
    assert idf(10, np.array([1, 10])).dtype == np.float32
    assert (np.diff(idf(100, np.arange(101))) < 0).all()
    assert idf(100, 100) > 0
    weights = saturation(np.array([0, 1, 2, 65_535], dtype=np.uint16), np.full(4, 10), 10.0)
    assert weights.dtype == np.float32
    assert weights[0] == 0
    assert (np.diff(weights) > 0).all()
    assert weights[-1] < 1
    assert saturation(np.array([1]), np.array([5]), 10.0) > saturation(np.array([1]), np.array([50]), 10.0)
    assert np.isfinite(saturation(np.array([0]), np.array([0]), 0.0, b=1.0)).all()


def test_documents_without_terms_are_rows_without_cells():
    bm25 = BM25()
    rows = bm25.encode_document(["", "the of", "!?"])
    assert rows.indptr.tolist() == [0, 0, 0, 0]
    assert bm25.n_documents == 3
    assert bm25.encode_query(["cat", ""]).indptr.tolist() == [0, 0, 0]


def test_bad_input():
    with pytest.raises(BadInput, match="k1"):
        BM25(k1=-1)
    with pytest.raises(BadInput, match="between 0 and 1"):
        BM25(b=1.5)
    with pytest.raises(BadInput, match="no documents"):
        BM25().encode_query(["cat"])


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (1.5, 1.0)])
def test_agrees_with_bm25s(k1, b):
    bm25s = pytest.importorskip("bm25s")
    rng = np.random.default_rng(7)
    vocabulary = [f"w{i}" for i in range(300)]
    documents = [rng.choice(vocabulary, rng.integers(1, 60), p=_zipf(300)).tolist() for _ in range(400)]
    queries = [rng.choice(vocabulary, 6).tolist() for _ in range(20)]
    theirs = bm25s.BM25(method="lucene", k1=k1, b=b)
    theirs.index(documents, show_progress=False)
    ours = BM25(k1=k1, b=b, stemmer=None, stopwords=None)
    rows = ours.encode_document([" ".join(d) for d in documents])
    scores = product(ours.encode_query([" ".join(q) for q in queries]), rows)
    for query, row in zip(queries, scores):
        known = [word for word in query if word in theirs.vocab_dict]
        np.testing.assert_allclose(row, theirs.get_scores(known), rtol=1e-4, atol=1e-5)


def _zipf(n):
    p = 1 / np.arange(1, n + 1)
    return p / p.sum()
