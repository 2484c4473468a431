"""Records as sets of tokens: words, or runs of characters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from inlay.errors import BadInput
from inlay.kernels.mixing import keys_of
from inlay.records.serialisation import Record, checked_records, value_of

__all__ = ["TokenSets", "checked_grams", "token_sets"]

_WORD = re.compile(r"\w+")


class TokenSets(NamedTuple):
    """The distinct tokens of each record.

    Args:
        indptr: int64 [n + 1]; record i has the tokens `keys[indptr[i]:indptr[i + 1]]`.
        keys: uint64 [tokens], 64-bit hashes.
    """

    indptr: np.ndarray
    keys: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The record of each token."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


def checked_grams(grams: int | None) -> int | None:
    """The length of runs of characters; None for words."""
    if grams is not None and (isinstance(grams, bool) or not isinstance(grams, int) or grams < 1):
        raise BadInput(f"grams must be None, for words, or a length of 1 and more characters, got {grams!r}")
    return grams


def token_sets(records: Sequence[Record], columns: Sequence[str] | None, grams: int | None) -> TokenSets:
    """Lower-cased words (letters, digits and underscores) of all values, or their runs of `grams` characters."""
    number: dict[str, int] = {}
    ids: list[int] = []
    ends = [0]
    for record in checked_records(records):
        text = " ".join(value_of(record, name) for name in (record if columns is None else columns)).lower()
        words = _WORD.findall(text)
        if grams is not None:
            joined = " ".join(words)
            words = [joined[at : at + grams] for at in range(max(len(joined) - grams + 1, 0))] or words
        ids += (number.setdefault(word, len(number)) for word in dict.fromkeys(words))
        ends.append(len(ids))
    return TokenSets(np.array(ends, np.int64), keys_of(number)[np.array(ids, np.int64)])
