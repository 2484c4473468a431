"""English text as a click log: does this word follow those two?

The click sample at hand has under 400 test rows, so that AUCs are known to ± 0.06; this task is of the same form and
has 40,000. Three fields: the word two before, the word before, and a word which really follows (label 1) or which was
drawn at random by frequency (label 0), half and half. Every field has its own ids for the same vocabulary, numbered by
falling frequency.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inlay.clicks.data import Clicks, ClickSplits
from inlay.reproductions.tables._next_word import words
from inlay.tables.keyspace import KeySpace

__all__ = ["word_clicks"]

FIELDS = ("two before", "before", "word")


def word_clicks(data: Path, *, vocabulary: int = 8192, rows: int = 200_000, seed: int = 0) -> ClickSplits:
    """As many training rows as asked, 20,000 of validation and 40,000 of test, out of documents of their own."""
    text = words(data, vocabulary)
    counts = np.bincount(text.train.numpy(), minlength=vocabulary)
    space = KeySpace({name: range(1, vocabulary) for name in FIELDS}, dict.fromkeys(FIELDS, counts))
    random = np.random.default_rng(seed)

    def clicks(part: np.ndarray, n: int) -> Clicks:
        at = random.permutation(len(part) - 2)[:n]
        ids = np.stack([part[at], part[at + 1], part[at + 2]], 1)
        labels = (random.random(n) < 0.5).astype(np.float32)
        ids[labels == 0, 2] = part[random.integers(len(part), size=int((labels == 0).sum()))]
        return Clicks(ids + space.offsets, np.zeros((n, 0)), labels)

    train = clicks(text.train.numpy(), rows)
    return ClickSplits(
        space, train, clicks(text.valid.numpy(), 20_000), clicks(text.test.numpy(), 40_000), "word_clicks"
    )
