"""Better rows: hard negatives, and filters for duplicates, leaked test texts and pairs that do not hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.dense import nearest, normalise
from inlay.training.example import Example
from inlay.training.sources import Source
from inlay.types import Encoder

__all__ = [
    "BelowFraction",
    "BelowMargin",
    "BelowScore",
    "Keep",
    "consistent",
    "decontaminate",
    "dedupe",
    "mine",
]


class Keep(Protocol):
    """Which candidates may be negatives: `(negative scores [n], score of the positive) -> bool [n]`."""

    def __call__(self, scores: np.ndarray, positive: float) -> np.ndarray: ...


@dataclass(frozen=True)
class BelowFraction:
    """s⁻ < fraction · s⁺ (NV-Embed's choice, with .95)."""

    fraction: float = 0.95

    def __call__(self, scores: np.ndarray, positive: float) -> np.ndarray:
        return scores < self.fraction * positive


@dataclass(frozen=True)
class BelowMargin:
    """s⁻ < s⁺ − margin."""

    margin: float = 0.05

    def __call__(self, scores: np.ndarray, positive: float) -> np.ndarray:
        return scores < positive - self.margin


@dataclass(frozen=True)
class BelowScore:
    """s⁻ < score."""

    score: float

    def __call__(self, scores: np.ndarray, positive: float) -> np.ndarray:
        return scores < self.score


def mine(
    source: Source, encoder: Encoder, corpus: Sequence[str] | None = None, *, n: int = 4,
    k_range: tuple[int, int] = (0, 50), keep: Keep | None = None, pick: Literal["random", "top", "last"] = "random",
    seed: int = 0, batch_size: int | None = None, progress: bool = False,
) -> Source:  # fmt: skip
    """Attach hard negatives: documents near the query that are not known to answer it.

    Never a document with the text of one of the query's positives (in any row of the source with that query), nor the
    query itself; and no negatives at all for a row whose positives are not in the corpus, for then nothing can be said
    about what lies near it.

    Args:
        source: rows with positives. Negatives that they have already are replaced.
        encoder: dense; what "near" means.
        corpus: where negatives come from; all positives of the source if None.
        n: how many to a row. Rows that find none keep an empty list.
        k_range: ranks looked at, best first, from 0, the upper end excluded. Positives take no rank.
        keep: rule on scores, see `BelowFraction`, `BelowMargin`, `BelowScore`; None keeps every candidate.
        pick: which of the kept ones.
        seed: of `random`.
        batch_size: handed to the encoder.
        progress: show a bar.
    """
    low, high = k_range
    if not 0 <= low < high or n < 1 or pick not in ("random", "top", "last"):
        raise BadInput(f"need 0 ≤ k_range[0] < k_range[1], n ≥ 1, pick random, top or last: {k_range}, {n}, {pick!r}")
    documents = list(dict.fromkeys(corpus if corpus is not None else (t for e in source for t in e.pos)))
    number = {text: i for i, text in enumerate(documents)}
    answers: dict[str, set[str]] = {}
    for example in source:
        answers.setdefault(example.query, {example.query}).update(example.pos)
    queries = list(answers)
    space = encoder.space
    if space.kind != "dense" or not documents:
        raise BadInput(f"mining needs a dense encoder and documents, got {space.kind} and {len(documents)}")
    rows = normalise(np.asarray(encoder.encode_document(documents, batch_size=batch_size, progress=progress)))
    asked = normalise(np.asarray(encoder.encode_query(queries, batch_size=batch_size, progress=progress)))
    # Positives take no rank, so that many more have to be looked at.
    wanted = min(len(documents), high + max(map(len, answers.values())))
    found = nearest(asked, rows, wanted)
    at = {query: i for i, query in enumerate(queries)}
    rng = np.random.default_rng(seed)

    def mined(example: Example) -> Example:
        known = [number[text] for text in example.pos if text in number]
        if not known:
            return replace(example, neg=[], neg_scores=None, neg_labels=None)
        i = at[example.query]
        forbidden = {number[text] for text in answers[example.query] if text in number}
        ids, scores = found.ids[i], found.scores[i]
        free = np.array([d >= 0 and int(d) not in forbidden for d in ids])
        ids, scores = ids[free][low:high], scores[free][low:high]
        if keep is not None:
            right = keep(scores, float((rows[known] @ asked[i]).max()))
            ids, scores = ids[right], scores[right]
        if pick == "random" and len(ids) > n:
            chosen = np.sort(rng.choice(len(ids), n, replace=False))
        else:
            chosen = np.arange(len(ids))[:n] if pick != "last" else np.arange(len(ids))[-n:]
        return replace(
            example,
            neg=[documents[d] for d in ids[chosen]],
            neg_scores=[float(s) for s in scores[chosen]],
            neg_labels=None,
        )

    return replace(source, examples=[mined(example) for example in source])


def dedupe(source: Source) -> Source:
    """Each (query, positives) once, compared without regard to case, punctuation and spaces."""
    seen: set[tuple[str, ...]] = set()

    def new(example: Example) -> bool:
        key = tuple(" ".join(words(text)) or text for text in (example.query, *sorted(example.pos)))
        fresh = key not in seen
        seen.add(key)
        return fresh

    return source.where(new)


def words(text: str) -> list[str]:
    r"""Lower-cased `\w+` runs."""
    return re.findall(r"\w+", text.lower())


def _grams(text: str, n: int) -> set[tuple[str, ...]]:
    """All runs of n words; the whole text where it is shorter, so that short test queries are found too."""
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))} if found else set()


def decontaminate(source: Source, held_out: Iterable[str], *, ngram: int = 13) -> Source:
    """Leave out rows that share a run of `ngram` words with a text that is used to judge.

    A judging text shorter than that counts as a whole: a row is left out where one of its texts is the same words.
    """
    if ngram < 1:
        raise BadInput(f"ngram must be at least 1, got {ngram}")
    leaked: set[tuple[str, ...]] = set()
    for text in held_out:
        leaked |= _grams(text, ngram)
    return source.where(lambda e: not any(_grams(text, ngram) & leaked for text in e.texts))


def consistent(
    source: Source, encoder: Encoder, corpus: Collection[str] | None = None, *, top: int = 10,
    batch_size: int | None = None, progress: bool = False,
) -> Source:  # fmt: skip
    """Keep rows of which a positive is among the `top` documents nearest to its own query.

    Args:
        source: rows with positives.
        encoder: dense.
        corpus: what the positive competes with; all positives of the source if None.
        top: how far down it may be.
        batch_size: handed to the encoder.
        progress: show a bar.
    """
    documents = list(dict.fromkeys([*(corpus or ()), *(text for e in source for text in e.pos)]))
    if not documents:
        return source
    rows = normalise(np.asarray(encoder.encode_document(documents, batch_size=batch_size, progress=progress)))
    queries = list(dict.fromkeys(example.query for example in source))
    asked = normalise(np.asarray(encoder.encode_query(queries, batch_size=batch_size, progress=progress)))
    found = nearest(asked, rows, min(top, len(documents)))
    near: dict[str, set[str]] = {query: {documents[d] for d in ids if d >= 0} for query, ids in zip(queries, found.ids)}
    keep: Callable[[Example], bool] = lambda example: not near[example.query].isdisjoint(example.pos)  # noqa: E731
    return source.where(keep)
