"""Misspellings made on purpose: two letters swapped, one dropped, one doubled, or one held down."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["KINDS", "Typo", "typos"]

KINDS = ("swap", "drop", "double", "elongate")
TRIES = 50


class Typo(NamedTuple):
    """A kind of mistake, the word that was meant, and what was written."""

    kind: str
    word: str
    written: str


def typos(words: Sequence[str], known: Collection[str], seed: int) -> Iterator[Typo]:
    """One mistake a word, kinds in turn over a shuffled order; what is written is never a known word.

    A word whose every mistake is a known word is left out.
    """
    rng = np.random.default_rng(seed)
    for i, at in enumerate(rng.permutation(len(words)).tolist()):
        word, kind = words[at], KINDS[i % len(KINDS)]
        for _ in range(TRIES):
            written = _spoilt(word, kind, rng)
            if written != word and written not in known:
                yield Typo(kind, word, written)
                break


def _spoilt(word: str, kind: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(len(word) - (kind == "swap")))
    if kind == "swap":
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == "drop":
        return word[:at] + word[at + 1 :]
    times = 2 if kind == "double" else int(rng.integers(3, 7))
    return word[:at] + word[at] * times + word[at + 1 :]
