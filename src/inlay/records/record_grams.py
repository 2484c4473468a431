"""Records as sparse rows of weighted character n-grams: what finds duplicates without any training.

All values of a record are read as one text by `inlay.encoders.Numen`, with an idf for each bucket: part numbers, names
and years that few records share decide, and neither a typing error nor a value in the wrong column does much. Whole
words are beside them, those with a digit (codes, years) apart from others, so that a part number which differs by a
character is another.

Two further kinds, for heads that learn how much each counts: the n-grams of each column apart, and for each column of
numbers their size, so that 19.99 and 20.50, which share hardly a character, are near.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from inlay.encoders.fingerprints import fingerprint
from inlay.encoders.numen import Numen
from inlay.errors import BadInput
from inlay.kernels.mixing import keys_of
from inlay.records.serialisation import Record, checked_columns, checked_records, columns_of, value_of
from inlay.types import Space, Sparse

__all__ = ["RecordGrams", "number_of"]

AT_ONCE = 2048
SIZES = 512  # columns for the size of a number
STEP = math.log(1.1)  # numbers that are 10% apart are one such column apart, and share nothing from there on
_INNER = re.compile(r"\W+")  # within a word too: kx-tg9343t is kxtg9343t
_NUMBER = re.compile(r"[^\d+-.]{0,3}\s*([+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[+-]?\.\d+)\s*\D{0,3}\Z")


def number_of(value: str) -> float | None:
    """The number that a value is, also with a currency sign and thousands' commas; None if it is none above 0."""
    found = _NUMBER.match(value)
    number = float(found[1].replace(",", "")) if found else 0.0
    return number if 0 < number < math.inf else None


class RecordGrams:
    """Hashed character n-grams of records, weighted by rarity; rows of unit length, compared by dot product.

    Args:
        dim: buckets of n-grams, and of words; for all values together, and for each column where columns have a share.
        n: lengths of n-grams.
        weights: what an n-gram of each length adds. NUMEN has 1, 5, 10; with an idf, long ones weigh more already.
        columns: attributes that are read; None takes those of the records given to `fit`.
        column_share: how much of a row's squared length the n-grams of columns apart are.
        word_share: how much whole words are, half of it those with a digit.
        number_share: how much the sizes of numbers are; a column is one of numbers if half of its values are.
    """

    def __init__(
        self, dim: int = 32_768, n: Sequence[int] = (3, 4, 5), weights: Sequence[float] = (1, 1, 1), *,
        columns: Sequence[str] | None = None, column_share: float = 0.0, word_share: float = 0.3,
        number_share: float = 0.0,
    ) -> None:  # fmt: skip
        self._text = Numen(dim, n, weights, "sparse")
        shares = {"column_share": column_share, "word_share": word_share, "number_share": number_share}
        for name, share in shares.items():
            if isinstance(share, bool | str) or not 0 <= share < 1:
                raise BadInput(f"{name} must be a number from 0 to below 1, got {share!r}")
        if sum(shares.values()) > 1:
            raise BadInput(f"{', '.join(shares)} add up to {sum(shares.values()):g}, and 1 is the most")
        self.dim, self.n, self.weights = self._text.dim, self._text.n, self._text.weights
        self.column_share, self.word_share, self.number_share = map(float, shares.values())
        self._asked = self.columns = checked_columns(columns)
        self.numbers: tuple[str, ...] = ()
        self._blocks: list[Numen] = []
        self._words: list[np.ndarray] = []  # idf of hashed words without a digit, and with one

    def __repr__(self) -> str:
        said = "".join(f", {name}={value}" for name, value in self.settings.items() if name != "columns")
        return f"RecordGrams({said[2:]}, columns={list(self._asked) if self._asked else None})"

    @property
    def settings(self) -> dict[str, Any]:
        """Keyword arguments that make such an encoder, unfitted."""
        return {
            "dim": self.dim, "n": list(self.n), "weights": list(self.weights),
            "columns": None if self._asked is None else list(self._asked),
            "column_share": self.column_share, "word_share": self.word_share, "number_share": self.number_share,
        }  # fmt: skip

    @property
    def fitted(self) -> bool:
        """Whether it has seen records."""
        return bool(self._blocks)

    @property
    def kinds(self) -> list[int]:
        """Columns of each kind: n-grams, of each column, other words, words with a digit, and the sizes of numbers."""
        sizes = [self.dim] * (len(self._blocks) + len(self._words))
        return sizes + [SIZES] * (len(self.numbers) if self.number_share else 0)

    @property
    def width(self) -> int:
        """Columns of a row."""
        return sum(self.kinds)

    @property
    def space(self) -> Space:
        """Where its rows are comparable: fitted to other records, it is another space."""
        state, arrays = self.state()
        return Space("sparse", self.width, "dot", fingerprint("record-grams", state, list(arrays.values())))

    @property
    def nbytes(self) -> int:
        """Bytes of what was learnt."""
        return sum(array.nbytes for array in self.state()[1].values())

    def fit(self, records: Sequence[Record]) -> RecordGrams:
        """Learn the columns, which of them hold numbers, and how rare each n-gram is."""
        given = checked_records(records)
        self.columns = self._asked or checked_columns(columns_of(given) or None)
        if self.columns is None:
            raise BadInput("there are no records with attributes to learn from; give at least one")
        sizes = [[number_of(value_of(record, name)) for record in given] for name in self.columns]
        filled = [sum(bool(value_of(record, name)) for record in given) for name in self.columns]
        self.numbers = tuple(
            name for name, own, count in zip(self.columns, sizes, filled)
            if 2 * sum(size is not None for size in own) >= max(count, 1)
        )  # fmt: skip
        self._blocks = [self._fitted(texts) for texts in self._texts(given)]
        self._words = []
        for rows in _words(self._texts(given)[0], self.dim) if self.word_share else ():
            df = np.bincount(rows.indices, minlength=self.dim)
            self._words.append(np.log1p(len(given) / df.clip(1)).astype(np.float32))
        return self

    def encode(self, records: Sequence[Record]) -> Sparse:
        """A row of each record; one without values gets a zero row, which is near nothing."""
        if not self.fitted:
            raise BadInput("this RecordGrams has seen no records; call fit(records) before encode")
        given = checked_records(records)
        shares = [1 - self.column_share - self.word_share - self.number_share]
        shares += [self.column_share / len(self.columns or ())] * (len(self._blocks) - 1)
        parts: list[Sparse] = []
        for share, block, texts in zip(shares, self._blocks, self._texts(given)):
            rows: Any = block.encode_document(texts)
            parts.append(Sparse(rows.indptr, rows.indices, rows.data * np.float32(share**0.5), rows.shape))
        for idf, rows in zip(self._words, _words(self._texts(given)[0], self.dim)):
            parts.append(_unit(rows, idf, (self.word_share / 2) ** 0.5))
        if self.number_share:
            for name in self.numbers:
                parts.append(_sizes(given, name, (self.number_share / len(self.numbers)) ** 0.5))
        rows = _beside(parts, len(given))
        # A record without a number, or without a code, is short of their shares: equal records score 1 all the same.
        return _unit(rows, np.ones(rows.shape[1], np.float32), 1.0)

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What makes it again: JSON values and arrays."""
        facts = {"settings": self.settings, "read": list(self.columns or ()), "numbers": list(self.numbers)}
        idf = {f"idf.{i}": block.idf for i, block in enumerate(self._blocks) if block.idf is not None}
        return facts, idf | {f"idf.words.{i}": array for i, array in enumerate(self._words)}

    @classmethod
    def of_state(cls, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> RecordGrams:
        """The reverse of `state`."""
        made = cls(**facts["settings"])
        made.columns, made.numbers = checked_columns(facts["read"] or None), tuple(facts["numbers"])
        count = sum(re.fullmatch(r"idf\.\d+", name) is not None for name in arrays)
        made._words = [arrays[f"idf.words.{i}"].copy() for i in range(2) if f"idf.words.{i}" in arrays]
        made._blocks = [
            Numen(made.dim, made.n, made.weights, "sparse", idf=arrays[f"idf.{i}"].copy()) for i in range(count)
        ]
        return made

    def _fitted(self, texts: list[str]) -> Numen:
        # log(1 + N / df): unlike the idf of BM25 it leaves something to n-grams that half of a small table has, which
        # are those of its duplicates.
        df = np.zeros(self.dim)
        for low in range(0, len(texts), AT_ONCE):
            df += np.bincount(self._text.counts(texts[low : low + AT_ONCE]).indices, minlength=self.dim)
        return Numen(self.dim, self.n, self.weights, "sparse", idf=np.log1p(len(texts) / df.clip(1)))

    def _texts(self, records: Sequence[Record]) -> list[list[str]]:
        """The text of each record, for all columns together and, where they have a share, for each."""
        columns = self.columns or ()
        values = [[value_of(record, name) for record in records] for name in columns]
        whole = [" ".join(own) for own in zip(*values)]
        return [whole, *values] if self.column_share else [whole]


def _words(texts: list[str], dim: int) -> list[Sparse]:
    """Distinct words of each text in hashed columns: those without a digit, and those with one."""
    parts: list[list[list[str]]] = [[], []]
    for text in texts:
        words = dict.fromkeys(_INNER.sub("", word) for word in text.lower().split())
        for kind, own in enumerate(parts):
            own.append([word for word in words if word and any(map(str.isdigit, word)) == bool(kind)])
    rows = []
    for own in parts:
        row = np.repeat(np.arange(len(own)), [len(words) for words in own])
        hashed = keys_of(word for words in own for word in words) % np.uint64(dim)
        row, columns = np.divmod(np.unique(row * dim + hashed.astype(np.int64)), dim)
        indptr = np.searchsorted(row, np.arange(len(own) + 1))
        rows.append(Sparse(indptr, columns.astype(np.int32), np.ones(len(columns), np.float32), (len(own), dim)))
    return rows


def _unit(rows: Sparse, idf: np.ndarray, length: float) -> Sparse:
    """Rows weighted by idf, at one length."""
    data = rows.data * idf[rows.indices]
    row = np.repeat(np.arange(len(rows)), np.diff(rows.indptr))
    norms = np.sqrt(np.bincount(row, weights=data * data, minlength=len(rows)))
    return Sparse(rows.indptr, rows.indices, (data * (length / norms[row])).astype(np.float32), rows.shape)


def _sizes(records: Sequence[Record], name: str, length: float) -> Sparse:
    """Logarithms of numbers as two neighbouring columns that share the weight by nearness."""
    numbers = [number_of(value_of(record, name)) for record in records]
    there = np.array([number is not None for number in numbers], dtype=bool)
    at = np.log([number for number in numbers if number is not None]) / STEP
    low = np.floor(at)
    part = (at - low).astype(np.float32)
    columns = np.stack([low, low + 1], axis=1).astype(np.int64) % SIZES
    data = np.stack([1 - part, part], axis=1)
    data *= np.float32(length) / np.sqrt((data**2).sum(axis=1, keepdims=True))
    order = np.argsort(columns, axis=1)
    indptr = np.zeros(len(records) + 1, np.int64)
    np.cumsum(2 * there, out=indptr[1:])
    columns, data = np.take_along_axis(columns, order, 1), np.take_along_axis(data, order, 1)
    return Sparse(indptr, columns.ravel().astype(np.int32), data.ravel(), (len(records), SIZES))


def _beside(parts: list[Sparse], count: int) -> Sparse:
    """Blocks of columns side by side."""
    if len(parts) == 1:
        return parts[0]
    row = np.concatenate([np.repeat(np.arange(count), np.diff(part.indptr)) for part in parts])
    before = np.cumsum([0, *(part.shape[1] for part in parts)])
    column = np.concatenate([part.indices + at for part, at in zip(parts, before)])
    order = np.argsort(row, kind="stable")  # within a row, blocks are in order and so are their columns
    indptr = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=count), out=indptr[1:])
    data = np.concatenate([part.data for part in parts])[order]
    return Sparse(indptr, column[order].astype(np.int32), data, (count, int(before[-1])))
