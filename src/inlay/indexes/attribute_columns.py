"""Named integer columns packed into 64-bit words, and the text beside them encoded once.

Types of a column:

- `u1` … `u32`: an integer of so many bits (`u8`, `u16`, `u32` are the usual ones);
- `cat`, or `cat8` and the like: one of a list of names, 16 bits unless said otherwise; None where there is none;
- `set32`, up to `set64`: a set of so many labels at most, one bit each.

Names and labels get their numbers in the order in which they are first seen, from 1 for a category (0 is None) and from
bit 0 for a set. Fields never straddle words; the widest are placed first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from inlay.errors import BadInput

__all__ = ["Column", "Columns", "Zones"]

TYPE = re.compile(r"(u|cat|set)(\d*)")
DEFAULT = {"cat": 16}
WIDEST = {"u": 32, "cat": 32, "set": 64}
BUCKETS = 64


class Column(NamedTuple):
    """One column, and where its field lies."""

    name: str
    type: str
    kind: Literal["u", "cat", "set"]
    bits: int
    word: int
    shift: int

    @property
    def mask(self) -> int:
        """The field's bits in its word."""
        return ((1 << self.bits) - 1) << self.shift


class Zones(NamedTuple):
    """What groups of rows hold, for each group and column: `low` and `high`, and a set of `BUCKETS` bits.

    Attributes:
        low: uint32 [g, columns], 0 for a set.
        high: uint32 [g, columns], 0 for a set.
        seen: uint64 [g, columns]: bit v mod 64 of every value v; of sets, their union.
    """

    low: np.ndarray
    high: np.ndarray
    seen: np.ndarray

    def of(self, groups: np.ndarray) -> Zones:
        """Those of some groups."""
        return Zones(self.low[groups], self.high[groups], self.seen[groups])

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays."""
        return self.low.nbytes + self.high.nbytes + self.seen.nbytes


class Columns:
    """Columns by name, their places in the words of a row, and the numbers of their labels.

    Args:
        types: name → type, as in the module's docstring.
        labels: labels known already, of each column that has any, in the order of their numbers.

    Attributes:
        width: words of a row.
    """

    def __init__(self, types: Mapping[str, str], labels: Mapping[str, Sequence[str]] | None = None) -> None:
        if not isinstance(types, Mapping):
            raise BadInput(f"attributes are a dictionary like {{'year': 'u16', 'lang': 'cat'}}, got {types!r}")
        asked = [(name, *_parsed(name, type_)) for name, type_ in types.items()]
        free: list[int] = []  # first free bit of each word
        places: dict[str, tuple[int, int]] = {}
        for name, _, _, bits in sorted(asked, key=lambda one: -one[3]):
            word = next((w for w, used in enumerate(free) if used + bits <= 64), len(free))
            if word == len(free):
                free.append(0)
            places[name] = word, free[word]
            free[word] += bits
        self._columns = {name: Column(name, type_, kind, bits, *places[name]) for name, type_, kind, bits in asked}  # type: ignore[arg-type]
        self.width = len(free)
        self._labels: dict[str, dict[str, int]] = {
            one.name: {label: i for i, label in enumerate((labels or {}).get(one.name, ()))}
            for one in self
            if one.kind != "u"
        }

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._columns.values())

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return f"Columns({self.types})"

    @property
    def types(self) -> dict[str, str]:
        """Name → type."""
        return {one.name: one.type for one in self}

    def __getitem__(self, name: str) -> Column:
        if name not in self._columns:
            known = ", ".join(self._columns) or "no columns"
            raise BadInput(f"there is no attribute {name!r}; there are {known}")
        return self._columns[name]

    def labels(self, name: str) -> list[str]:
        """Labels of a category or set, in the order of their numbers."""
        return list(self._labels[self[name].name])

    def encode(self, values: Mapping[str, Any] | None, n: int) -> np.ndarray:
        """Words uint64 [width, n] of n rows; labels that are new are remembered, unless something is refused.

        Args:
            values: of every column, n of them: integers; names or None; or sequences of labels.
            n: how many rows.
        """
        values = {} if values is None else values
        if not isinstance(values, Mapping):
            raise BadInput(f"attributes are a dictionary of columns, got {type(values).__name__}")
        missing, unknown = (sorted(set(a) - set(b)) for a, b in ((self._columns, values), (values, self._columns)))
        if missing or unknown:
            wrong = f"lack {', '.join(missing)}" if missing else f"have {', '.join(map(str, unknown))}"
            raise BadInput(f"the attributes given {wrong}; give exactly {', '.join(self._columns) or 'none'}")
        words = np.zeros((self.width, n), dtype=np.uint64)
        labels = {name: dict(known) for name, known in self._labels.items()}
        for one in self:
            given = values[one.name]
            if one.kind == "u":
                codes = _integers(one, given, n)
            else:
                codes = (_categories if one.kind == "cat" else _sets)(one, given, n, labels[one.name])
            words[one.word] |= codes.astype(np.uint64) << np.uint64(one.shift)
        self._labels = labels
        return words

    def codes(self, words: np.ndarray, name: str) -> np.ndarray:
        """Numbers uint64 [n] of one column, from words [width, n]."""
        one = self[name]
        return (words[one.word] >> np.uint64(one.shift)) & np.uint64((1 << one.bits) - 1)

    def decode(self, words: np.ndarray) -> dict[str, list[Any]]:
        """Values of every column, as they were given; labels of a set in the order of their numbers."""
        found: dict[str, list[Any]] = {}
        for one in self:
            codes = self.codes(words, one.name).tolist()
            if one.kind == "u":
                found[one.name] = codes
                continue
            labels = self.labels(one.name)
            if one.kind == "cat":
                found[one.name] = [labels[code - 1] if code else None for code in codes]
            else:
                found[one.name] = [[label for i, label in enumerate(labels) if code >> i & 1] for code in codes]
        return found

    def zones(self, words: np.ndarray, starts: np.ndarray) -> Zones:
        """Zones of groups of rows [width, n]: group i begins at `starts[i]`, and none is empty."""
        low, high = (np.zeros((len(starts), len(self)), dtype=np.uint32) for _ in range(2))
        seen = np.zeros((len(starts), len(self)), dtype=np.uint64)
        for i, one in enumerate(self if len(starts) else ()):
            codes = self.codes(words, one.name)
            bits = codes
            if one.kind != "set":
                low[:, i], high[:, i] = np.minimum.reduceat(codes, starts), np.maximum.reduceat(codes, starts)
                bits = np.uint64(1) << (codes % np.uint64(BUCKETS))
            seen[:, i] = np.bitwise_or.reduceat(bits, starts)
        return Zones(low, high, seen)

    def by_cardinality(self, words: np.ndarray) -> list[str]:
        """Names of the columns, those with the fewest different values first."""
        few = {one.name: len(np.unique(self.codes(words, one.name))) for one in self}
        return sorted(few, key=lambda name: few[name])


def _parsed(name: Any, type_: Any) -> tuple[str, str, int]:
    if not isinstance(name, str) or not name or name.startswith("$"):
        raise BadInput(f"an attribute's name is a string that does not begin with $, got {name!r}")
    found = TYPE.fullmatch(type_) if isinstance(type_, str) else None
    bits = (int(found[2]) if found[2] else DEFAULT.get(found[1], 0)) if found else 0
    if not found or not 1 <= bits <= WIDEST[found[1]]:
        raise BadInput(f"attribute {name!r}: type {type_!r} is none of u1 to u32, cat, cat1 to cat32, set1 to set64")
    return type_, found[1], bits


def _integers(one: Column, given: Any, n: int) -> np.ndarray:
    codes = np.asarray(given)
    if codes.dtype == np.bool_:
        codes = codes.astype(np.uint8)
    if codes.shape != (n,) or (n and codes.dtype.kind not in "iu"):
        raise BadInput(f"attribute {one.name!r} takes {n} integers, got {codes.dtype} {list(codes.shape)}")
    wrong = (codes < 0) | (codes >= 1 << one.bits)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise BadInput(f"attribute {one.name!r} of row {row} is {codes[row]}; {one.type} ends at {(1 << one.bits) - 1}")
    return codes.astype(np.uint64)


def _rows(one: Column, given: Any, n: int) -> Sequence[Any]:
    given = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or len(given) != n:
        got = f"{len(given)}" if isinstance(given, Sequence) else type(given).__name__
        raise BadInput(f"attribute {one.name!r} takes {n} values, one a row, got {got}")
    return given


def _number(one: Column, row: int, label: Any, known: dict[str, int], room: int) -> int:
    number = known.get(label) if isinstance(label, str) else None
    if number is not None:
        return number
    if not isinstance(label, str):
        raise BadInput(f"attribute {one.name!r} of row {row} takes strings, got {label!r}")
    try:
        label.encode()
    except UnicodeEncodeError:
        raise BadInput(f"attribute {one.name!r} of row {row} is not valid Unicode: {label!r:.80}") from None
    if len(known) == room:
        raise BadInput(f"attribute {one.name!r} of row {row}: {label!r} is one more than the {room} of {one.type}")
    return known.setdefault(label, len(known))


def _categories(one: Column, given: Any, n: int, known: dict[str, int]) -> np.ndarray:
    room = (1 << one.bits) - 1
    rows = _rows(one, given, n)
    codes = (0 if label is None else 1 + _number(one, row, label, known, room) for row, label in enumerate(rows))
    return np.fromiter(codes, dtype=np.uint64, count=n)


def _sets(one: Column, given: Any, n: int, known: dict[str, int]) -> np.ndarray:
    codes = np.zeros(n, dtype=np.uint64)
    for row, labels in enumerate(_rows(one, given, n)):
        if isinstance(labels, str) or not isinstance(labels, Sequence | set | frozenset):
            raise BadInput(f"attribute {one.name!r} of row {row} takes a list of labels, got {labels!r}")
        code = 0
        for label in labels:
            code |= 1 << _number(one, row, label, known, one.bits)
        codes[row] = code
    return codes
