"""Learned-sparse vectors without a model: real text, each passage expanded by words that occur near its own.

A document is 30 to 60 words out of a span of 256 words of real text, so that documents of one span share its topic
and no two are alike. It is expanded as a learned sparse encoder would: for each of its words, a few other occurrences
of that word in the whole text are drawn, and with each a word up to eight places away (co-occurrence sampling). The
weight of a word is idf · log(1 + what it got): 3 each time it is in the passage, 0.3 a draw; the largest 100 to 160
stay. A query is 4 to 8 words of a span that no document comes from, expanded in the same way to at most 42 words.

Geometry comes from the text, which random Zipf vectors lack. What differs from a trained encoder: expansion is noisier,
and there are as many topics as the text has.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inlay.errors import BadInput
from inlay.types import Sparse

__all__ = ["TEXTS", "ExpandedText"]

TEXTS = (
    "text/english_text.jsonl.gz", "scifact/corpus.jsonl.gz", "cranfield/corpus.jsonl.gz", "cosqa/corpus.jsonl.gz",
    "text/gsm8k.jsonl.gz",
)  # fmt: skip
SPAN, NEAR, RARE = 256, 8, 5
HELD_OUT = 50  # every so many-th span is for queries
AT_ONCE = 8192


class ExpandedText:
    """The text, and rows made of it.

    Args:
        data: the folder of data sets.
        texts: files under it to take the text from; those that are absent are left out.

    Attributes:
        words: int32 [tokens], the number of each word of the text.
        idf: float32 [vocabulary].
    """

    def __init__(self, data: Path, texts: Sequence[str] = TEXTS) -> None:
        streams: list[list[str]] = []
        for name in texts:
            path = data / name
            if path.exists():
                streams += [re.findall(r"[a-z]{2,}", line.get("text", "").lower()) for line in _lines(path)]
        if not streams:
            raise BadInput(f"none of {', '.join(texts)} under {data}; give the data folder that holds them")
        times = Counter(word for stream in streams for word in stream)
        common = sorted(word for word, count in times.items() if count >= RARE)
        number = {word: n for n, word in enumerate(common)}
        self.words = np.array([number[w] for stream in streams for w in stream if w in number], dtype=np.int32)
        counts = np.array([times[word] for word in common])
        self.idf = np.log(len(self.words) / counts / SPAN + 1).astype(np.float32)
        self.places = np.argsort(self.words, kind="stable")  # occurrences, word by word
        self.first = np.concatenate([[0], np.cumsum(counts)])

    def documents(self, n: int, *, seed: int = 0) -> Sparse:
        """n rows of about 130 weights."""
        return self._rows(n, seed, (30, 61), 6, (100, 161), held_out=False)

    def queries(self, n: int, *, seed: int = 1) -> Sparse:
        """n rows of about 42 weights."""
        return self._rows(n, seed, (4, 9), 12, (42, 43), held_out=True)

    def _rows(
        self, n: int, seed: int, words: tuple[int, int], draws: int, size: tuple[int, int], *, held_out: bool
    ) -> Sparse:
        parts = []
        for low in range(0, n, AT_ONCE):
            rng = np.random.default_rng([seed, low])
            parts.append(self._some(min(AT_ONCE, n - low), rng, words, draws, size, held_out))
        indptr = np.concatenate([[0], np.cumsum(np.concatenate([np.diff(p.indptr) for p in parts]))])
        indices, data = np.concatenate([p.indices for p in parts]), np.concatenate([p.data for p in parts])
        return Sparse(indptr, indices, data, (n, len(self.idf)))

    def _some(
        self, n: int, rng: np.random.Generator, words: tuple[int, int], draws: int, size: tuple[int, int],
        held_out: bool,
    ) -> Sparse:  # fmt: skip
        spans = len(self.words) // SPAN
        groups = spans // HELD_OUT
        if held_out:
            start = rng.integers(groups, size=n) * HELD_OUT * SPAN
        else:  # anywhere between two spans that are held out
            start = (rng.integers(groups, size=n) * HELD_OUT + 1) * SPAN + rng.integers((HELD_OUT - 2) * SPAN, size=n)
        lengths = rng.integers(*words, size=n)
        row = np.repeat(np.arange(n), lengths)
        own = self.words[start[row] + rng.integers(SPAN, size=len(row))]
        again = np.repeat(own, draws)
        at = self.first[again] + (rng.random(len(again)) * (self.first[again + 1] - self.first[again])).astype(np.int64)
        step = rng.integers(1, NEAR + 1, size=len(again)) * rng.choice([-1, 1], size=len(again))
        near = self.words[np.clip(self.places[at] + step, 0, len(self.words) - 1)]
        key = np.concatenate([row, np.repeat(row, draws)]) * len(self.idf) + np.concatenate([own, near])
        got = np.concatenate([np.full(len(own), 3.0, np.float32), np.full(len(near), 0.3, np.float32)])
        order = np.argsort(key, kind="stable")
        key, got = key[order], got[order]
        begins = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        row, column = np.divmod(key[begins], len(self.idf))
        weight = self.idf[column] * np.log1p(np.add.reduceat(got, begins))
        order = np.lexsort((-weight, row))
        counts = np.bincount(row, minlength=n)
        rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = np.sort(order[rank < np.repeat(rng.integers(*size, size=n), counts)])
        indptr = np.concatenate([[0], np.cumsum(np.bincount(row[kept], minlength=n))])
        return Sparse(indptr, column[kept].astype(np.int32), weight[kept].astype(np.float32), (n, len(self.idf)))


def _lines(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
