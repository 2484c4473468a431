"""Why two records may be one: values that are equal, and rare words that both have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from inlay.records.serialisation import Record, value_of

__all__ = ["Explainer", "Reason"]

_WORD = re.compile(r"\w+")


class Reason(NamedTuple):
    """What speaks for a pair, and against it.

    Args:
        same: columns whose values are equal but for case and blanks.
        shared: rare words that both have, the rarest first.
        differs: columns where both have a value, and another.
    """

    same: list[str]
    shared: list[str]
    differs: list[str]


class Explainer:
    """Explains pairs of records by how common their words are among all.

    Args:
        records: all of them.
        columns: attributes that are looked at.
        words: how many shared words are named.
    """

    def __init__(self, records: Sequence[Record], columns: Sequence[str], words: int = 4) -> None:
        self.columns, self.words = list(columns), words
        self._in = Counter(word for record in records for word in self._words(record))

    def __call__(self, a: Record, b: Record) -> Reason:
        same: list[str] = []
        differs: list[str] = []
        for name in self.columns:
            left, right = (value_of(record, name).casefold() for record in (a, b))
            if left and right:
                (same if left == right else differs).append(name)
        shared = self._words(a) & self._words(b)
        return Reason(same, sorted(shared, key=lambda word: (self._in[word], -len(word), word))[: self.words], differs)

    def _words(self, record: Record) -> set[str]:
        return {word for name in self.columns for word in _WORD.findall(value_of(record, name).casefold())}
