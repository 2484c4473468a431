"""Fields of categories to ids: names, cardinalities, offsets, and how often each value was seen.

Id 0 of every field stands for values that were rare or never seen, so that a lookup always answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from inlay.errors import BadInput

__all__ = ["KeySpace"]


class KeySpace:
    """The keys of several fields, side by side in one range of ids.

    A field's values are numbered by falling frequency from 1; 0 is every other value. The id of a value is its number
    plus the field's offset, so that one table can hold all fields, and a table a field can be cut out of it.

    Args:
        values: of each field, its values in the order of their numbers (from 1).
        counts: of each field, int64 [len(values) + 1], how often number 0, 1, … was seen in training.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]], counts: Mapping[str, np.ndarray]) -> None:
        if not values:
            raise BadInput("a key space needs at least one field")
        self.names = tuple(values)
        self.values = {name: list(of) for name, of in values.items()}
        self._number = {name: {value: i for i, value in enumerate(of, 1)} for name, of in self.values.items()}
        for name in self.names:
            if len(self._number[name]) != len(self.values[name]):
                raise BadInput(f"field {name!r} lists a value twice")
            if len(counts[name]) != len(self.values[name]) + 1:
                raise BadInput(f"field {name!r} has {len(self.values[name])} values and {len(counts[name])} counts")
        self.sizes = np.array([len(self.values[name]) + 1 for name in self.names], dtype=np.int64)
        self.offsets = np.array([0, *accumulate(self.sizes.tolist())], dtype=np.int64)[:-1]
        self.counts = np.concatenate([np.asarray(counts[name], dtype=np.int64) for name in self.names])

    @classmethod
    def fit(cls, columns: Mapping[str, Iterable[Any]], *, min_count: int = 1) -> KeySpace:
        """Number the values seen at least `min_count` times in training columns."""
        values: dict[str, list[Any]] = {}
        counts: dict[str, np.ndarray] = {}
        for name, column in columns.items():
            seen: dict[Any, int] = {}
            try:
                for value in column:
                    seen[value] = seen.get(value, 0) + 1
            except TypeError as error:
                raise BadInput(f"field {name!r}: values must be strings, numbers or None ({error})") from None
            kept = sorted((v for v, n in seen.items() if n >= min_count), key=lambda v: (-seen[v], str(v)))
            values[name] = kept
            rest = sum(seen.values()) - sum(seen[v] for v in kept)
            counts[name] = np.array([rest, *(seen[v] for v in kept)], dtype=np.int64)
        return cls(values, counts)

    @property
    def rows(self) -> int:
        """Ids of all fields together."""
        return int(self.sizes.sum())

    @property
    def num_fields(self) -> int:
        """Number of fields."""
        return len(self.names)

    def __repr__(self) -> str:
        return f"KeySpace({self.num_fields} fields, {self.rows:,} ids)"

    def ids(self, columns: Mapping[str, Iterable[Any]]) -> np.ndarray:
        """Int64 [n, fields] of columns; values that were not numbered get their field's id 0."""
        missing = [name for name in self.names if name not in columns]
        if missing:
            raise BadInput(f"there is no column {missing[0]!r}; this key space has {', '.join(self.names)}")
        found = [
            np.fromiter((self._number[name].get(v, 0) for v in columns[name]), dtype=np.int64) for name in self.names
        ]
        if len({len(column) for column in found}) > 1:
            raise BadInput(f"columns differ in length: {[len(column) for column in found]}")
        return np.stack(found, axis=1) + self.offsets

    def field_of(self, ids: np.ndarray) -> np.ndarray:
        """Number of the field that each id belongs to."""
        return np.searchsorted(self.offsets, ids, side="right") - 1

    def to_json(self) -> str:
        """As text; `from_json` reads it. Values must be strings, numbers or None."""
        start = [int(offset) for offset in self.offsets]
        counts = {n: self.counts[o : o + s].tolist() for n, o, s in zip(self.names, start, self.sizes.tolist())}
        return json.dumps({"values": self.values, "counts": counts}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> KeySpace:
        """What `to_json` wrote."""
        held = json.loads(text)
        return cls(held["values"], {name: np.array(of, dtype=np.int64) for name, of in held["counts"].items()})
