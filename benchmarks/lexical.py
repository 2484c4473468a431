"""BM25 against bm25s with its numba backend: the same formula, constants, stemmer and thread.

Two collections: SciFact, which is judged, and 200,000 documents resampled from real English sentences
(`data.resampled`), asked 1,000 spans of sentences that no document has. Each side has its own tokeniser; where only
the engines are compared, both are given the terms of ours.

Quality first: nDCG@10 on SciFact within 0.005, and on the large collection how many of the ten best agree; with the
same terms, the scores must.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import data
from benchmarks.harness import Contender, Quality, Row, compare

__all__ = ["PACKAGES", "TITLE", "measure"]

TITLE = "Lexical search (BM25)"
PACKAGES = ("inlay", "bm25s", "numpy", "numba", "PyStemmer")
K1, B, K = 1.2, 0.75, 10

JUDGED = Quality("nDCG@10", 0.005, at_least=True)
AGREES = Quality("overlap@10 with the peer", 0.15)
SAME_SCORES = Quality("places of the ten best with equal scores", 0.001)


class Ours:
    """BM25 rows in posting lists."""

    def __init__(self, texts: Sequence[str]) -> None:
        from inlay.encoders.bm25 import BM25
        from inlay.indexes.inverted import Inverted

        self.bm25 = BM25(k1=K1, b=B)
        self.index = Inverted()
        self.index.add(self.bm25.encode_document(texts))

    def search(self, queries: Sequence[str], k: int = K) -> np.ndarray:
        """Numbers of the documents, int64 [queries, k]."""
        return self.index.search(self.bm25.encode_query(queries), k).ids


class BM25s:
    """bm25s at its fastest: numba for building and for searching, its `Tokenizer`, tokens as numbers.

    One retriever serves all rounds, because each new one compiles its kernels again.
    """

    def __init__(self) -> None:
        import bm25s
        import Stemmer
        from bm25s.tokenization import Tokenizer

        self.tokenizer = Tokenizer(stemmer=Stemmer.Stemmer("english"), stopwords="en")
        self.retriever = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numba")
        self.retriever.compile(activate_numba=True)

    def index(self, texts: Sequence[str]) -> BM25s:
        self.tokenizer.reset_vocab()
        return self.index_terms(self.tokenizer.tokenize(texts, return_as="tuple", show_progress=False))

    def index_terms(self, tokens: Any) -> BM25s:
        self.retriever.index(tokens, show_progress=False)
        return self

    def search(self, queries: Sequence[str], k: int = K) -> np.ndarray:
        tokens = self.tokenizer.tokenize(queries, update_vocab=False, return_as="ids", show_progress=False)
        return self.search_terms(tokens, k).documents

    def search_terms(self, tokens: Any, k: int = K) -> Any:
        """`documents` and `scores`, [queries, k]."""
        return self.retriever.retrieve(tokens, k=k, n_threads=1, show_progress=False)


def measure(quick: bool = False) -> Iterator[Row]:
    """Rows of indexing and of searching, on both collections."""
    try:
        peer = BM25s()
    except ImportError:
        yield Row("BM25", "bm25s", refused="bm25s is not installed")
        return
    budget = 3.0 if quick else 20.0
    for name in ("cranfield", "cosqa"):
        test = data.judged(name)
        ours, theirs = _judge(test, Ours(test.texts).search), _judge(test, peer.index(test.texts).search)
        yield Row(
            f"{name}: quality",
            "bm25s",
            "nDCG@10",
            ours,
            theirs,
            quality={"measure": "nDCG@10", "ours": round(ours, 4), "peer": round(theirs, 4)},
        )
    yield from _scifact(peer, budget)
    yield from _large(peer, 20_000 if quick else 200_000, 200 if quick else 1000, budget)


def _scifact(peer: BM25s, budget: float) -> Iterator[Row]:
    test = data.judged("scifact")
    queries = list(test.queries.values())
    ours, theirs = Ours(test.texts), peer.index(test.texts)

    def sides(run_ours: Callable[[], Any], run_theirs: Callable[[], Any]) -> tuple[Contender, Contender]:
        return (
            Contender("inlay", run_ours, lambda: _judge(test, ours.search)),
            Contender("bm25s", run_theirs, lambda: _judge(test, theirs.search)),
        )

    yield compare(
        f"scifact: search, batch of {len(queries)}, tokenising included",
        *sides(lambda: ours.search(queries), lambda: theirs.search(queries)),
        quality=JUDGED, per=len(queries), unit="queries/s", budget=budget,
    )  # fmt: skip
    yield compare(
        "scifact: search, one query a call, tokenising included",
        *sides(lambda: [ours.search([q]) for q in queries[:50]], lambda: [theirs.search([q]) for q in queries[:50]]),
        quality=JUDGED, per=50, unit="ms/query", budget=budget,
    )  # fmt: skip
    yield compare(
        f"scifact: index {len(test):,} documents, tokenising and the first query included",
        *sides(lambda: Ours(test.texts).search(queries[:1]), lambda: peer.index(test.texts).search(queries[:1])),
        quality=JUDGED, per=len(test), unit="documents/s", budget=budget,
    )  # fmt: skip
    yield _durable(peer, test, sides, budget)


def _durable(peer: BM25s, test: Any, sides: Callable[..., tuple[Contender, Contender]], budget: float) -> Row:
    """The same through the collection, which also keeps the documents and survives a crash, against index and save."""
    import inlay

    documents = [{"id": id, "text": text} for id, text in zip(test.ids, test.texts)]

    def ours() -> None:
        with tempfile.TemporaryDirectory() as scratch, inlay.open(Path(scratch) / "c.inlay", encoder=False) as c:
            c.add(documents)
            c.search("microstructure of the brain", K, mode="lexical")

    def theirs() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            peer.index(test.texts).retriever.save(scratch, corpus=documents, show_progress=False)
            peer.search(["microstructure of the brain"])

    return compare(
        f"scifact: {len(test):,} documents to disk and the first query (collection against index and save)",
        *sides(ours, theirs), quality=JUDGED, per=len(test), unit="documents/s", budget=budget,
    )  # fmt: skip


def _large(peer: BM25s, documents: int, asked: int, budget: float) -> Iterator[Row]:
    texts, held_out = data.resampled(documents)
    queries = data.spans(held_out, asked)
    name = f"{documents:,} documents"
    yield compare(
        f"{name}: index, tokenising and the first query included",
        Contender("inlay", lambda: Ours(texts).search(queries[:1])),
        Contender("bm25s", lambda: peer.index(texts).search(queries[:1])),
        per=documents, unit="documents/s", budget=budget, least=3,
    )  # fmt: skip

    ours, theirs = Ours(texts), peer.index(texts)
    yield compare(
        f"{name}: search, batch of {asked}, tokenising included",
        Contender(
            "inlay", lambda: ours.search(queries), lambda: _overlap(ours.search(queries), theirs.search(queries))
        ),
        Contender("bm25s", lambda: theirs.search(queries), lambda: 1.0),
        quality=AGREES, per=asked, unit="queries/s", budget=budget,
    )  # fmt: skip
    yield compare(
        f"{name}: search, one query a call, tokenising included",
        Contender("inlay", lambda: [ours.search([q]) for q in queries[:50]]),
        Contender("bm25s", lambda: [theirs.search([q]) for q in queries[:50]]),
        per=50, unit="ms/query", budget=budget,
    )  # fmt: skip

    terms, asked_terms = _terms(ours, texts, queries)
    theirs = peer.index_terms(terms)
    kept = [place for place, terms in enumerate(asked_terms) if terms]  # bm25s refuses a query without a term
    rows, asked_terms = ours.bm25.encode_query([queries[i] for i in kept]), [asked_terms[i] for i in kept]
    yield compare(
        f"{name}: search, batch of {len(kept)}, same terms, tokenising excluded",
        Contender(
            "inlay",
            lambda: ours.index.search(rows, K),
            lambda: _same(ours.index.search(rows, K).scores, theirs.search_terms(asked_terms).scores),
        ),
        Contender("bm25s", lambda: theirs.search_terms(asked_terms), lambda: 1.0),
        quality=SAME_SCORES, per=len(kept), unit="queries/s", budget=budget,
    )  # fmt: skip


def _judge(test: Any, search: Callable[[Sequence[str], int], np.ndarray]) -> float:
    found = search(list(test.queries.values()), K)
    return data.ndcg(test, [[test.ids[i] for i in row if i >= 0] for row in found.tolist()])


def _overlap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean share of the peer's best that ours has too."""
    shares = [len(set(a) & set(b)) / len(set(b)) for a, b in zip(ours.tolist(), theirs.tolist())]
    return float(np.mean(shares))


def _same(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Share of places whose scores agree; ours marks a place that no document takes by −inf, the peer by 0."""
    return float(np.mean(np.isclose(np.maximum(ours, 0), theirs, rtol=1e-4, atol=1e-5)))


def _terms(ours: Ours, texts: Sequence[str], queries: Sequence[str]) -> tuple[Any, list[list[str]]]:
    """Our terms of documents and of queries in the forms that bm25s takes; a query keeps terms that occur."""
    counts = ours.bm25.analyzer.count(texts)
    flat = np.repeat(counts.columns, counts.counts).tolist()
    ends = np.cumsum(counts.lengths).tolist()
    ids = [flat[start:stop] for start, stop in zip([0, *ends], ends)]
    vocabulary = {term: i for i, term in enumerate(counts.terms)}
    analysed = [[term for term in ours.bm25.analyzer.terms(query) if term in vocabulary] for query in queries]
    return (ids, vocabulary), analysed
