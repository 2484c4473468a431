"""Queries for a collection that brings none: what its own passages say that few others do.

A passage of text asks with its title, if it has one; otherwise with its most informative sentence: of the sentences
with at least four different terms, the one whose terms are rarest in the mean, by log(n / passages with the term). A
passage without text asks with its row. The passage itself is no answer to its question.

Such queries look more like passages than a person's do, so what they measure is agreement with an exact search, and
not whether answers are right.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from inlay.errors import BadInput

__all__ = ["informative_sentence", "pseudo_queries"]

SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")
TERMS = 4  # different ones that a sentence needs to say something
LONGEST = 300  # characters of a query


def pseudo_queries(texts: Sequence[str], titles: Sequence[str] | None = None) -> list[str]:
    """A query for each passage; empty where a passage has no words.

    Args:
        texts: of the passages.
        titles: of their documents, empty where there is none.
    """
    from inlay.encoders.analysis import Analyzer

    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise BadInput(f"texts must be a list of str, got {type(texts).__name__}")
    if titles is not None and len(titles) != len(texts):
        raise BadInput(f"{len(titles)} titles for {len(texts)} texts: one each is due")
    analyzer = Analyzer()
    terms = [set(analyzer.terms(text)) for text in texts]
    counts = Counter(term for own in terms for term in own)
    weights = {term: math.log(1 + len(texts) / count) for term, count in counts.items()}
    found = []
    for i, text in enumerate(texts):
        title = titles[i].strip() if titles is not None else ""
        found.append(title[:LONGEST] or informative_sentence(text, weights, analyzer))
    return found


def informative_sentence(text: str, weights: dict[str, float], analyzer: object) -> str:
    """The sentence whose different terms weigh most in the mean; of none that is long enough, the longest.

    Args:
        text: of a passage.
        weights: of terms.
        analyzer: has `terms(text)`.
    """
    best, most, longest = "", -1.0, ""
    for sentence in SENTENCE.split(text):
        own = set(analyzer.terms(sentence))  # type: ignore[attr-defined]
        if len(sentence) > len(longest) and own:
            longest = sentence
        if len(own) < TERMS:
            continue
        weight = sum(weights.get(term, 0.0) for term in own) / len(own)
        if weight > most:
            best, most = sentence, weight
    return (best or longest).strip()[:LONGEST]
