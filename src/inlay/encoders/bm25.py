"""BM25 as a sparse space: a document's row holds saturated term frequencies, a query's row holds idf.

The variant is Lucene's, whose idf is never negative:

    idf(t)        = ln(1 + (N - df + 0.5) / (df + 0.5))
    weight(t, d)  = tf / (tf + k1 (1 - b + b |d| / mean |d|))
    BM25(q, d)    = Σ over terms of q, repetitions counted:  idf(t) · weight(t, d)

Splitting the product this way keeps `df` out of the document rows, so a collection may grow and shrink with its
statistics exact while only the length normalisation moves.

Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond"; Kamphuis et al. 2020, "Which
BM25 Do You Mean?".
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inlay.encoders.analysis import Analyzer, TermCounts
from inlay.errors import BadInput, Corrupt
from inlay.io import atomic_write
from inlay.kernels.tokens import split
from inlay.types import Space, Sparse

__all__ = ["BM25", "idf", "saturation"]


def idf(n_documents: int, df: np.ndarray | float) -> np.ndarray:
    """Inverse document frequency, float32, of terms that `df` of `n_documents` documents have."""
    df = np.asarray(df, dtype=np.float64)
    return np.log1p((n_documents - df + 0.5) / (df + 0.5)).astype(np.float32)


def saturation(
    tf: np.ndarray, lengths: np.ndarray, average_length: float, k1: float = 1.2, b: float = 0.75
) -> np.ndarray:
    """Document side of BM25: term frequencies, float32, saturated and normalised by document length.

    Args:
        tf: term frequencies, [nnz].
        lengths: length in terms of the document of each frequency, [nnz].
        average_length: mean length of the documents; of no documents, or empty ones, anything will do.
    """
    tf = np.asarray(tf, dtype=np.float32)
    norm = np.asarray(lengths, dtype=np.float32) * np.float32(k1 * b / max(average_length, 1e-9))
    norm += np.float32(k1 * (1 - b))
    norm += tf
    # 0 / 0 happens only for tf = 0 with k1 = 0 or b = 1: a term that is not there weighs nothing.
    return np.divide(tf, norm, out=np.zeros_like(norm), where=norm > 0)


# Spellings remembered of queries; of more, all are forgotten, so that no stream of nonsense fills the memory.
REMEMBERED = 1_000_000


class _ColumnOfWord(dict[str, int]):
    """A word as it is written → its column, or -1 of stop words and of what no document says. Learnt when asked."""

    def __init__(self, analyzer: Analyzer, vocabulary: Mapping[str, int]) -> None:
        self._analyzer, self._vocabulary, self.size = analyzer, vocabulary, len(vocabulary)

    def __missing__(self, word: str) -> int:
        term = self._analyzer.term(word)
        column = -1 if term is None else self._vocabulary.get(term, -1)
        if len(self) >= REMEMBERED:
            self.clear()
        self[word] = column
        return column


class BM25:
    """A sparse encoder whose query row · document row is BM25.

    Statistics (documents, document frequencies, total length) are integers and stay exact while documents come
    (`partial_fit`) and go (`remove`). Columns are terms in the order in which they were first met; they never move,
    so rows encoded earlier stay comparable, and `shape[1]` grows.

    Encoding documents before any `fit` learns the vocabulary and the statistics from them. Afterwards encoding
    changes no statistics; a term that is new then only gets a column.

    Args:
        k1: how late repetitions of a term stop counting; 0 only asks whether it is there.
        b: how much long documents are discounted, 0 to 1.
        stemmer: see `Analyzer`.
        stopwords: see `Analyzer`.
    """

    expensive = False

    def __init__(
        self,
        *,
        k1: float = 1.2,
        b: float = 0.75,
        stemmer: str | None = "english",
        stopwords: str | Iterable[str] | None = "english",
    ) -> None:
        if not 0 <= k1 < float("inf"):
            raise BadInput(f"k1 must be a number from 0 up (1.2 is usual), got {k1!r}")
        if not 0 <= b <= 1:
            raise BadInput(f"b must lie between 0 and 1 (0.75 is usual), got {b!r}")
        self.k1, self.b = float(k1), float(b)
        self.analyzer = Analyzer(stemmer, stopwords)
        self._forget()

    def _forget(self) -> None:
        self.n_documents = 0
        self.total_length = 0
        self.vocabulary: dict[str, int] = {}
        self._df = np.zeros(0, dtype=np.int64)
        self._idf: np.ndarray | None = None
        self._words: _ColumnOfWord | None = None

    def __repr__(self) -> str:
        return "BM25({})".format(", ".join(f"{name}={value!r}" for name, value in self.settings.items()))

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make a BM25 of the same settings, without statistics; JSON-ready."""
        return {"k1": self.k1, "b": self.b, **self.analyzer.settings}

    @property
    def spec(self) -> dict[str, Any] | None:
        """Arguments of `inlay.encoder` that make this encoder again; None once it has learnt a vocabulary."""
        return None if self.vocabulary else {"name": "bm25", **self.settings}

    @property
    def space(self) -> Space:
        settings = json.dumps(self.settings, sort_keys=True, ensure_ascii=True)
        digest = hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()
        return Space(kind="sparse", dim=0, metric="dot", fingerprint=f"bm25-{digest}")

    @property
    def average_length(self) -> float:
        """Mean number of terms of a document (0.0 of none)."""
        return self.total_length / self.n_documents if self.n_documents else 0.0

    @property
    def document_frequencies(self) -> dict[str, int]:
        """Number of documents that have each term, of terms that some document has."""
        return {term: df for term, df in zip(self.vocabulary, self._df.tolist()) if df}

    def fit(self, texts: Sequence[str]) -> BM25:
        """Take the statistics of these documents and no others."""
        counts = self.analyzer.count(texts)
        self._forget()
        self._learn(counts)
        return self

    def partial_fit(self, texts: Sequence[str]) -> BM25:
        """Documents come: add theirs to the statistics."""
        self._learn(self.analyzer.count(texts))
        return self

    def remove(self, texts: Sequence[str]) -> BM25:
        """Documents go: take theirs out of the statistics, exactly undoing `fit` or `partial_fit` of them."""
        counts = self.analyzer.count(texts)
        n, length = len(counts.lengths), int(counts.lengths.sum(dtype=np.int64))
        columns = self._columns(counts.terms)
        gone = np.bincount(counts.columns, minlength=len(columns))
        left = np.where(columns >= 0, self._df[columns] if len(self._df) else 0, 0) - gone
        if n > self.n_documents or length > self.total_length or (left < 0).any():
            unknown = [counts.terms[i] for i in np.flatnonzero(left < 0)[:3].tolist()]
            raise BadInput(
                f"cannot remove {n} documents that were never added (of {self.n_documents}; "
                f"unexpected terms: {', '.join(unknown) or 'none'}); remove exactly the texts given to fit"
            )
        self.n_documents -= n
        self.total_length -= length
        self._df[columns] = left
        self._idf = None
        return self

    def encode_document(self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False) -> Sparse:
        """Rows of saturated term frequencies under the current statistics."""
        counts = self.analyzer.count(items)
        if not self.n_documents:
            self._learn(counts)
        columns = self._columns(counts.terms, grow=True)[counts.columns]
        lengths = np.repeat(counts.lengths, np.diff(counts.indptr))
        weights = saturation(counts.counts, lengths, self.average_length, self.k1, self.b)
        return self._sparse(counts.indptr, columns, weights)

    def encode_query(self, items: Sequence[str], *, batch_size: int | None = None, progress: bool = False) -> Sparse:
        """Rows of idf, times how often the query says the term; terms without a column are left out."""
        if not self.n_documents:
            raise BadInput("BM25 has seen no documents; call fit(texts) or encode_document(texts) before encode_query")
        if isinstance(items, str):
            raise BadInput("encode_query takes a list of texts, got one string; wrap it in a list")
        column_of, weight_of = self._columns_of_words(), self._weights()
        found: list[int] = []
        ends = [0]
        for text in items:
            found += map(column_of.__getitem__, split(text))
            ends.append(len(found))
        if len(ends) == 2:  # one query: what follows, in less time than numpy takes to be called
            here = sorted(column for column in found if column >= 0)
            columns = np.array(sorted(set(here)), dtype=np.int32)
            weights = weight_of[columns]
            if len(columns) < len(here):
                weights *= np.array([here.count(column) for column in columns.tolist()], dtype=np.float32)
            return Sparse(np.array((0, len(columns))), columns, weights, (1, len(self.vocabulary)))
        said, n, width = np.array(found, dtype=np.int64), len(ends) - 1, max(len(self.vocabulary), 1)
        row = np.repeat(np.arange(n), np.diff(ends))[said >= 0]
        cells, counts = np.unique(row * width + said[said >= 0], return_counts=True)
        row, columns = np.divmod(cells, width)
        indptr = np.searchsorted(row, np.arange(n + 1))
        weights = counts.astype(np.float32) * weight_of[columns]
        return Sparse(indptr, columns.astype(np.int32), weights, (n, len(self.vocabulary)))

    def _columns_of_words(self) -> _ColumnOfWord:
        """Column of each word as it is written; good while the vocabulary does not grow."""
        known = self._words
        if known is None or known.size != len(self.vocabulary):
            self._words = known = _ColumnOfWord(self.analyzer, self.vocabulary)
        return known

    def _weights(self) -> np.ndarray:
        """Idf of each column, float32; good while no document comes or goes."""
        if self._idf is None:
            self._idf = idf(self.n_documents, self._df)
        return self._idf

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write settings, vocabulary and statistics as JSON."""
        state = {
            "format": "inlay-bm25",
            "version": 1,
            "settings": self.settings,
            "n_documents": self.n_documents,
            "total_length": self.total_length,
            "terms": list(self.vocabulary),
            "df": self._df.tolist(),
        }
        atomic_write(Path(path), json.dumps(state, ensure_ascii=False).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BM25:
        """Read what `save` wrote."""
        try:
            state = json.loads(Path(path).read_text(encoding="utf-8"))
            if state["format"] != "inlay-bm25" or state["version"] != 1:
                raise ValueError("not a BM25 file of version 1")
            bm25 = cls(**state["settings"])
            bm25.n_documents, bm25.total_length = int(state["n_documents"]), int(state["total_length"])
            bm25.vocabulary = {str(term): i for i, term in enumerate(state["terms"])}
            bm25._df = np.array(state["df"], dtype=np.int64)
            if len(bm25.vocabulary) != len(state["terms"]) or bm25._df.shape != (len(bm25.vocabulary),):
                raise ValueError("terms and document frequencies do not pair up")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Corrupt(f"{path} does not hold a BM25 encoder ({error}); fit and save it again") from error
        return bm25

    def _learn(self, counts: TermCounts) -> None:
        columns = self._columns(counts.terms, grow=True)
        self._df[columns] += np.bincount(counts.columns, minlength=len(columns))
        self.n_documents += len(counts.lengths)
        self.total_length += int(counts.lengths.sum(dtype=np.int64))
        self._idf = None

    def _columns(self, terms: list[str], *, grow: bool = False) -> np.ndarray:
        """Column of each term, int64; an unknown term gets a new one (`grow`) or -1."""
        vocabulary = self.vocabulary
        if grow:
            for term in terms:
                vocabulary.setdefault(term, len(vocabulary))
            self._df = np.concatenate([self._df, np.zeros(len(vocabulary) - len(self._df), dtype=np.int64)])
            self._idf = None
        return np.array([vocabulary.get(term, -1) for term in terms], dtype=np.int64)

    def _sparse(self, indptr: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> Sparse:
        """CSR with columns ascending within each row, which terms in alphabetical order need not give."""
        row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        order = np.lexsort((columns, row))
        shape = (len(indptr) - 1, len(self.vocabulary))
        return Sparse(indptr, columns[order].astype(np.int32), weights[order].astype(np.float32), shape)
