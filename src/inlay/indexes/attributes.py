"""Attributes of rows in memory, and masks of the rows that a filter keeps.

    attributes = Attributes({"year": "u16", "lang": "cat", "tags": "set32"})
    attributes.add({"year": [2011, 2020], "lang": ["bg", None], "tags": [["news"], []]})
    index.search(query, 10, allow=attributes.mask({"lang": "bg", "year": {"$gte": 2010}}))

A row takes a word of eight bytes for every 64 bits of its columns, and a filter is one pass over the words. Any index
takes such a mask; `DiskIVF` keeps the same words beside its lists.

Source: the discrete attributes beside the vectors of arXiv 2501.13442, kept as bit fields.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from inlay import sealed
from inlay.errors import BadInput, Corrupt
from inlay.indexes.attribute_columns import Columns
from inlay.indexes.attribute_filter import Predicate

__all__ = ["Attributes"]

KIND = "attributes"


class Attributes:
    """Columns of integers, categories and sets of labels; one row for each row of an index.

    Args:
        types: name → type: `u8`, `u16`, `u32` (or any number of bits), `cat`, `set32`, `set64`; see
            `inlay.indexes.attribute_columns`.
    """

    def __init__(self, types: Mapping[str, str]) -> None:
        self.columns = Columns(types)
        if not len(self.columns):
            raise BadInput("attributes need at least one column, got none; give a dictionary like {'year': 'u16'}")
        self._words = np.empty((self.columns.width, 0), dtype=np.uint64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __repr__(self) -> str:
        return f"Attributes({self.columns.types}) of {len(self)} rows"

    @property
    def words(self) -> np.ndarray:
        """What is kept, uint64 [words, n]."""
        return self._words[:, : self._count]

    @property
    def nbytes(self) -> int:
        """Bytes of the words."""
        return 8 * self.columns.width * self._count

    def add(self, values: Mapping[str, Any]) -> None:
        """Append rows: as many values of every column, integers, names (or None), or lists of labels."""
        if not isinstance(values, Mapping) or not values:
            raise BadInput(f"attributes are a dictionary of columns, got {values!r:.80}")
        first = next(iter(values.values()))
        more = self.columns.encode(values, len(first) if hasattr(first, "__len__") else 0)
        stop = self._count + more.shape[1]
        if stop > self._words.shape[1]:
            grown = np.empty((len(self._words), max(stop, 2 * self._words.shape[1])), dtype=np.uint64)
            grown[:, : self._count] = self.words
            self._words = grown
        self._words[:, self._count : stop] = more
        self._count = stop

    def __getitem__(self, row: int) -> dict[str, Any]:
        if not isinstance(row, int | np.integer) or not -len(self) <= row < len(self):
            raise IndexError(f"row {row!r} is outside [0, {len(self)})")
        return {name: own[0] for name, own in self.columns.decode(self.words[:, [row]]).items()}

    def predicate(self, where: Mapping[str, Any] | None) -> Predicate:
        """A filter, compiled; it knows the labels that there are now."""
        return Predicate(self.columns, where)

    def mask(self, where: Mapping[str, Any] | None) -> np.ndarray:
        """Bool [n], the rows that pass a filter like {"lang": "bg", "year": {"$gte": 2010}, "$or": [...]}."""
        return self.predicate(where)(self.words)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file."""
        labels = {one.name: self.columns.labels(one.name) for one in self.columns if one.kind != "u"}
        facts = {"kind": KIND, "types": list(self.columns.types.items()), "labels": labels}
        sealed.write(os.fspath(path), {"words": np.ascontiguousarray(self.words)}, facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Attributes:
        """Read what `save` wrote."""
        arrays, facts = sealed.read(os.fspath(path), KIND)
        try:
            made = cls(dict(facts["types"]))
            made.columns = Columns(dict(facts["types"]), facts["labels"])
            words = arrays["words"]
            if words.dtype != np.uint64 or words.ndim != 2 or len(words) != made.columns.width:
                raise KeyError("words")
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"{path} does not hold attributes ({error}); make and save them again") from None
        made._words, made._count = words, words.shape[1]
        return made
