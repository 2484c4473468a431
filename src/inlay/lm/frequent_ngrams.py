"""Frequent n-grams of a tokenised text: what SCONE keeps rows for.

    found = mine_fgrams(training_ids, max_n=4, min_count=5, top=50_000, separator=0)
    numbers, lengths = found.longest(ids, separator=0)     # the longest f-gram that ends at each place

One scan of the text for each length. An n-gram is a candidate only if its first n − 1 and its last n − 1 tokens were
frequent in the scan before (Apriori: no n-gram is more frequent than its parts), so that few are counted although the
text has nearly as many different n-grams as tokens. Frequent ones are numbered, and a candidate is the number of its
first part and its last token: one integer, exact, whatever n is. Scans are sorts of such integers, block by block.

An n-gram may begin with the token that begins a document (the separator), and never reaches over it.

Source: SCONE, Scaling Embedding Layers in Language Models (arXiv 2502.01637). It names no order among equal counts;
here the shorter come first, then those of smaller ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.tables.keyers import LongestNGram

__all__ = ["FGrams", "mine_fgrams"]

KIND = "frequent n-grams"
_BLOCK = 1 << 22  # places counted at a time: 32 MB of candidates
_IDS = 1 << 31


class FGrams:
    """Frequent n-grams, the commonest first; number i is the key of the i-th.

    Args:
        tokens: int [n, longest], each n-gram from the left, -1 after its last token; no n-gram twice.
        counts: int [n], how often each was met.
        trained_on: what text they were mined from.
    """

    def __init__(self, tokens: Any, counts: Any, trained_on: str = "") -> None:
        held, met = np.asarray(tokens), np.asarray(counts)
        if held.ndim != 2 or held.dtype.kind not in "iu" or held.shape[1] < 2:
            raise BadInput(f"n-grams must be int [n, at least 2], got {held.dtype} {held.shape}")
        if held.shape[1] > 255:
            raise BadInput(f"n-grams of at most 255 tokens, got room for {held.shape[1]}")
        if held.size and (held.min() < -1 or held.max() >= _IDS):
            wrong = int(held.min()) if held.min() < -1 else int(held.max())
            raise BadInput(f"token ids must be in [0, 2**31), got {wrong}")
        self.lengths = (held >= 0).sum(axis=1).astype(np.uint8)
        filled = np.arange(held.shape[1]) < self.lengths[:, None]
        if (filled != (held >= 0)).any() or (self.lengths < 2).any():
            row = int(np.flatnonzero((filled != (held >= 0)).any(axis=1) | (self.lengths < 2))[0])
            raise BadInput(f"n-gram {row} must be two tokens or more, then only -1; got {held[row].tolist()}")
        if met.shape != (len(held),) or met.dtype.kind not in "iu" or (len(met) and met.min() < 1):
            raise BadInput(f"counts must be int [{len(held)}] of at least 1, got {met.dtype} {met.shape}")
        self.tokens, self.counts = held.astype(np.int32), met.astype(np.int64)
        self.trained_on = trained_on
        self._longest = LongestNGram(self)

    @classmethod
    def of(cls, ngrams: Iterable[Sequence[int]], longest: int | None = None, *, trained_on: str = "") -> Self:
        """Those n-grams, in that order, whatever their frequency (each counts as met once)."""
        given = [[int(token) for token in ngram] for ngram in ngrams]
        room = max([2, *map(len, given)] if longest is None else [longest])
        if any(len(ngram) > room or (ngram and min(ngram) < 0) for ngram in given):
            raise BadInput(f"n-grams must be at most {room} token ids of at least 0")
        tokens = np.full((len(given), room), -1, dtype=np.int64)
        for row, ngram in enumerate(given):
            tokens[row, : len(ngram)] = ngram
        return cls(tokens, np.ones(len(given), dtype=np.int64), trained_on)

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[list[int]]:
        for tokens, length in zip(self.tokens.tolist(), self.lengths.tolist()):
            yield tokens[:length]

    def __repr__(self) -> str:
        of = f", trained_on={self.trained_on!r}" if self.trained_on else ""
        return f"FGrams({len(self):,} n-grams of 2 to {self.max_n} tokens{of})"

    @property
    def max_n(self) -> int:
        """Tokens of the longest n-gram there is room for."""
        return int(self.tokens.shape[1])

    @property
    def fingerprint(self) -> bytes:
        """16 bytes that change with any n-gram or their order."""
        return hashlib.blake2b(np.ascontiguousarray(self.tokens).tobytes(), digest_size=16).digest()

    def longest(self, ids: Any, *, starts: Any = None, separator: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Of ids [..., time]: the number of the longest n-gram that ends there, int64, -1 for none; its length, uint8.

        Args:
            ids: int [..., time]. Nothing before them is known: an n-gram that began earlier is not found.
            starts: bool [..., time], where documents begin.
            separator: the token that documents begin with, in place of `starts`.
        """
        return self._longest.keys(ids, starts=_starts(np.asarray(ids), starts, separator))

    def distinct(
        self, ids: Any, *, separator: int | None = None, last: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Every n-gram once: numbers int64 [u], ascending, and the place of each text's tokens among them.

        Args:
            ids: int [..., time].
            separator: the token that documents begin with.
            last: look at that many tokens at the end only; those before are read as what comes before them.

        Returns:
            Numbers, and int64 [..., last] in [0, u), -1 where no n-gram ends.
        """
        numbers, _ = self.longest(ids, separator=separator)
        numbers = numbers if last is None else numbers[..., numbers.shape[-1] - last :]
        place = np.full(numbers.shape, -1, dtype=np.int64)
        unique, place[numbers >= 0] = np.unique(numbers[numbers >= 0], return_inverse=True)
        return unique, place

    def save(self, path: str | Path) -> Path:
        """Write to one file."""
        facts = {"kind": KIND, "trained on": self.trained_on}
        return sealed.write(path, {"tokens": self.tokens, "counts": self.counts}, facts)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote. Raises `Corrupt` where it is damaged."""
        arrays, facts = sealed.read(path, KIND)
        try:
            return cls(arrays["tokens"], arrays["counts"], facts["trained on"])
        except (KeyError, BadInput) as error:
            raise Corrupt(f"{path} holds no n-grams this version of inlay knows ({error}); save them again") from None


def mine_fgrams(
    ids: Any, *, starts: Any = None, separator: int | None = None, max_n: int = 4, min_count: int = 5,
    top: int | None = 50_000, trained_on: str = "",
) -> FGrams:  # fmt: skip
    """The most frequent n-grams of 2 … `max_n` tokens, of all lengths together.

    Args:
        ids: the training text, int [tokens], maybe mapped from a file. Leave out what models are validated on: n-grams
            chosen by it have seen it.
        starts: bool [tokens], where documents begin.
        separator: the token that documents begin with, in place of `starts`.
        max_n: tokens of the longest.
        min_count: rarer ones are dropped, and so is what contains them. The paper's 5.
        top: keep that many; None for all.
        trained_on: what the text is, kept with the n-grams.
    """
    for what, number, low in (("max_n", max_n, 2), ("min_count", min_count, 1), ("top", 1 if top is None else top, 1)):
        if not isinstance(number, (int, np.integer)) or isinstance(number, bool) or number < low:
            raise BadInput(f"{what} must be an integer of at least {low}, got {number!r}")
    text = np.asarray(ids)
    if text.ndim != 1 or (text.size and text.dtype.kind not in "iu"):
        raise BadInput(f"the text must be int ids [tokens], got {text.dtype} {text.shape}")
    if text.size and (text.min() < 0 or text.max() >= _IDS):
        wrong = int(text.min()) if text.min() < 0 else int(text.max())
        raise BadInput(f"token ids must be in [0, 2**31), got {wrong}")
    begins = _starts(text, starts, separator)
    vocabulary = int(text.max()) + 1 if text.size else 1
    ends = text.astype(np.int32)  # number of the frequent (n − 1)-gram that ends at each place, or -1; at first, tokens
    grams = np.zeros((0, 1), dtype=np.int64)
    kept, counts = [np.zeros((0, max_n), dtype=np.int32)], [np.zeros(0, dtype=np.int64)]
    for n in range(2, max_n + 1):
        scan = _Scan(text, ends, begins if n == 2 else None, vocabulary)  # a longer one over a start has such a pair
        keys, met = scan.count()
        keys, met = keys[met >= min_count], met[met >= min_count]
        if not len(keys):
            break
        first, last = np.divmod(keys, vocabulary)
        grams = np.column_stack([first if n == 2 else grams[first], last])
        kept.append(np.pad(grams, ((0, 0), (0, max_n - n)), constant_values=-1).astype(np.int32))
        counts.append(met)
        if n < max_n:
            ends = scan.number(keys)
    every, met = np.concatenate(kept), np.concatenate(counts)
    chosen = np.argsort(-met, kind="stable")[:top]  # stable: by length, then by ids, as they were gathered
    return FGrams(every[chosen], met[chosen], trained_on)


class _Scan:
    """One scan: candidates of n tokens from the frequent ones of n − 1, in blocks."""

    def __init__(self, text: np.ndarray, ends: np.ndarray, begins: np.ndarray | None, vocabulary: int) -> None:
        self.text, self.ends, self.begins, self.vocabulary = text, ends, begins, vocabulary

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places that a candidate ends at, and its key: the number of its first part · vocabulary + its last token."""
        for start in range(1, len(self.text), _BLOCK):
            stop = min(start + _BLOCK, len(self.text))
            before = self.ends[start - 1 : stop - 1]
            both = (before >= 0) & (self.ends[start:stop] >= 0)
            if self.begins is not None:
                both &= ~self.begins[start:stop]
            at = np.flatnonzero(both)
            yield start + at, before[at].astype(np.int64) * self.vocabulary + self.text[start + at].astype(np.int64)

    def count(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys, ascending, and how often each was met."""
        keys, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        for _, found in self._blocks():
            new, often = np.unique(found, return_counts=True)
            if len(keys):
                new, place = np.unique(np.concatenate([keys, new]), return_inverse=True)
                together = np.zeros(len(new), dtype=np.int64)
                np.add.at(together, place, np.concatenate([counts, often]))
                often = together
            keys, counts = new, often
        return keys, counts

    def number(self, keys: np.ndarray) -> np.ndarray:
        """Int32 [tokens]: which of the ascending keys ends there, or -1."""
        numbers = np.full(len(self.text), -1, dtype=np.int32)
        for at, found in self._blocks():
            place = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
            numbers[at] = np.where(keys[place] == found, place, -1)
        return numbers


def _starts(ids: np.ndarray, starts: Any, separator: int | None) -> np.ndarray | None:
    if separator is not None:
        if starts is not None:
            raise BadInput("give either starts or separator: both say where documents begin")
        if not isinstance(separator, (int, np.integer)) or isinstance(separator, bool) or separator < 0:
            raise BadInput(f"separator must be a token id of at least 0, got {separator!r}")
        return np.asarray(ids == separator)
    if starts is None:
        return None
    begins = np.asarray(starts)
    if begins.shape != ids.shape or begins.dtype != np.bool_:
        raise BadInput(f"starts must be bool {ids.shape}, got {begins.dtype} {begins.shape}")
    return begins
