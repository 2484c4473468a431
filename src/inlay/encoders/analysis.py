"""Text to terms: what a lexical space counts.

Split (see `inlay.kernels.tokens`), fold case, leave out stop words, cut over-long tokens, stem. Everything after the
split happens once for each *distinct* token of a batch, so its cost is that of the vocabulary, not of the text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels import tokens

__all__ = ["ENGLISH", "Analyzer", "TermCounts", "TermPostings"]

# Words so common in English prose that they tell nothing, and the tails that splitting at an apostrophe leaves.
_WORDS = """
a an and are as at be but by for from if in into is it its no not of on or s such t that the their then there these
they this to was were will with
"""
ENGLISH = frozenset(_WORDS.split())

# Characters kept of a token: beyond it are encoded blobs, which nobody types in full.
LONGEST = 64


class TermCounts(NamedTuple):
    """How often each text has each term, as CSR rows.

    Args:
        indptr: int64 [n + 1]; text i spans `indptr[i]:indptr[i + 1]`.
        columns: int32 [nnz], numbers of terms, ascending within a text.
        counts: uint16 [nnz], saturating at 65,535.
        lengths: int32 [n], number of terms kept in each text, repetitions included.
        terms: the distinct terms, sorted (by code point, which is also the order of their UTF-8 bytes).
    """

    indptr: np.ndarray
    columns: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    terms: list[str]


class TermPostings(NamedTuple):
    """Which texts have each term, and how often, as a column store.

    Args:
        indptr: int64 [terms + 1]; term t spans `indptr[t]:indptr[t + 1]`.
        rows: int32 [nnz], numbers of texts, ascending within a term.
        counts: uint16 [nnz], saturating at 65,535.
        lengths: int32 [n], number of terms kept in each text, repetitions included.
        terms: the distinct terms, sorted.
    """

    indptr: np.ndarray
    rows: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    terms: list[str]


class Analyzer:
    """Turns text into terms.

    Args:
        stemmer: name of a Snowball stemmer ("english", "german", ...) or None to keep words as they are.
        stopwords: "english", any words of your own, or None to keep them all.
    """

    def __init__(self, stemmer: str | None = "english", stopwords: str | Iterable[str] | None = "english") -> None:
        if isinstance(stopwords, str) and stopwords != "english":
            raise BadInput(f"stopwords must be 'english', None or a list of words, got {stopwords!r}")
        if stemmer is not None:
            _stemmer(stemmer)
        self.stemmer = stemmer
        words = ENGLISH if stopwords == "english" else frozenset(map(_fold, stopwords or ()))
        self.stopwords: frozenset[str] = words

    def __repr__(self) -> str:
        return "Analyzer({})".format(", ".join(f"{name}={value!r}" for name, value in self.settings.items()))

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make an equal analyzer; JSON-ready."""
        if self.stopwords == ENGLISH:
            return {"stemmer": self.stemmer, "stopwords": "english"}
        return {"stemmer": self.stemmer, "stopwords": sorted(self.stopwords) or None}

    def terms(self, text: str) -> list[str]:
        """The terms of one text, in order, repetitions included."""
        words = tokens.split(text)
        if not text.isascii() or max(map(len, words), default=0) > LONGEST:  # what is left for `_fold` to do
            words = list(map(_fold, words))
        words = [word for word in words if word not in self.stopwords]
        return words if self.stemmer is None else _stemmer(self.stemmer).stemWords(words)

    def term(self, token: str) -> str | None:
        """The term of one token, as `inlay.kernels.tokens.split` gives it; None for a stop word."""
        return self._stemmed([_fold(token)])[0]

    def count(self, texts: Sequence[str]) -> TermCounts:
        """Count the terms of many texts; agrees with `terms` on each."""
        if isinstance(texts, str):
            raise BadInput("count takes a list of texts, got one string; wrap it in a list")
        offsets, ids, column_of, terms = self._spelled(texts)
        return TermCounts(*tokens.count_columns(offsets, ids, column_of, len(terms)), terms)

    def postings(self, texts: Sequence[str]) -> TermPostings:
        """The same counts by term."""
        offsets, ids, column_of, terms = self._spelled(texts)
        return TermPostings(*tokens.posting_lists(offsets, ids, column_of, len(terms)), terms)

    def _spelled(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
        """(offsets, token numbers, term of each distinct token or -1, the terms, sorted)."""
        offsets, ids, distinct = tokens.token_stream(texts)
        stemmed = self._stemmed(map(_fold, distinct))
        terms = sorted({term for term in stemmed if term is not None})
        column: dict[str | None, int] = {term: i for i, term in enumerate(terms)}
        column[None] = -1
        return offsets, ids, np.fromiter(map(column.__getitem__, stemmed), dtype=np.int32, count=len(stemmed)), terms

    def _stemmed(self, words: Iterable[str]) -> list[str | None]:
        """The term of each folded word; None for a stop word."""
        words = list(words)
        stems: Sequence[str] = words if self.stemmer is None else _stemmer(self.stemmer).stemWords(words)
        stop = self.stopwords
        return [None if word in stop else stem for word, stem in zip(words, stems)]


def _fold(token: str) -> str:
    """Case-fold one token, with composed accents, cut to `LONGEST` characters."""
    if not token.isascii():
        return unicodedata.normalize("NFC", token.lower())[:LONGEST]
    return token.lower()[:LONGEST]


def _stemmer(language: str) -> Any:
    """A Snowball stemmer; made anew, which takes a microsecond, because one must not be shared between threads."""
    import Stemmer

    try:
        return Stemmer.Stemmer(language, 0)
    except KeyError:
        known = ", ".join(Stemmer.algorithms())
        raise BadInput(f"there is no Snowball stemmer {language!r}; choose None or one of: {known}") from None
