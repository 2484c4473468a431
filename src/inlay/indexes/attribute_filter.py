"""A filter over packed attributes, compiled once for each search.

`where` has the form of a collection's filters: `{"lang": "bg", "year": {"$gte": 2010, "$lt": 2020}}`, with $eq, $ne,
$gt, $gte, $lt, $lte, $in, $nin, $exists, $glob and $not on a column, and $and, $or, $nor and $not around filters. A
set matches where any of its labels does; `{"$and": [{"tags": "a"}, {"tags": "b"}]}` asks for both. Conditions on a
category or set are answered from the list of its labels, so that rows are only ever compared as integers. Unlike in a
collection, where columns are declared by nobody, a name that is no column and a value of another type are errors.

The same condition answers for a whole zone of rows: whether any may match, and whether any may not. A negation swaps
the two.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from inlay.errors import BadInput
from inlay.indexes.attribute_columns import BUCKETS, Column, Columns, Zones
from inlay.kernels.attribute_scan import AND, CONSTANT, LISTED, NOT, OR, TEST, Program, passes

__all__ = ["Predicate"]

DEEPEST = 64
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq, "$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le,
}  # fmt: skip
OPERATORS = sorted([*COMPARE, "$ne", "$in", "$nin", "$exists", "$glob", "$not"])
LOGIC = ("$and", "$or", "$nor")
FULL = (1 << 64) - 1


class Always(NamedTuple):
    """True, or false, of every row."""

    value: bool


class Listed(NamedTuple):
    """The column's number is one of these, ascending."""

    column: Column
    place: int
    numbers: np.ndarray


class Between(NamedTuple):
    """It lies between two, both included."""

    column: Column
    place: int
    low: int
    high: int


class Any_(NamedTuple):
    """The set holds one of the labels of a mask."""

    column: Column
    place: int
    mask: int


class Not(NamedTuple):
    """The opposite."""

    part: Any


class All(NamedTuple):
    """Every part."""

    parts: list[Any]


class Some(NamedTuple):
    """One part at least."""

    parts: list[Any]


Node: TypeAlias = Always | Listed | Between | Any_ | Not | All | Some


class Predicate:
    """A compiled filter.

    Args:
        columns: what the rows hold.
        where: the filter; None or {} for all rows.

    Attributes:
        program: as `inlay.kernels.attribute_scan` runs it; without steps where everything passes.
    """

    def __init__(self, columns: Columns, where: Mapping[str, Any] | None) -> None:
        self._columns = {one.name: (one, i) for i, one in enumerate(columns)}
        self._all = columns
        self._node = _simple(self._group({} if where is None else where, 0))
        self._steps: list[tuple[int, int, int, int]] = []
        self._bounds: list[tuple[int, int, int]] = []
        self._table: list[np.ndarray] = []
        depth = 0 if self._node == Always(True) else self._emit(self._node)
        self.program = Program(
            np.array(self._steps, dtype=np.int64).reshape(-1, 4),
            np.array(self._bounds, dtype=np.uint64).reshape(-1, 3),
            np.concatenate(self._table) if self._table else np.empty(0, dtype=np.uint64),
            depth,
        )

    def __repr__(self) -> str:
        return f"Predicate of {len(self.program.steps)} steps"

    def __call__(self, words: np.ndarray) -> np.ndarray:
        """Bool [n], which rows of words [width, n] pass."""
        return passes(words, self.program)

    def zones(self, zones: Zones) -> tuple[np.ndarray, np.ndarray]:
        """Bool [g] twice: whether any row of a zone may pass, and whether any may fail."""
        return _zoned(self._node, zones)

    # From the dictionary to a tree ------------------------------------------------------------------------------------

    def _group(self, where: Any, depth: int) -> Node:
        if not isinstance(where, Mapping):
            raise BadInput(f"a filter is a dictionary like {{'year': {{'$gte': 2020}}}}, got {where!r}")
        if depth > DEEPEST:
            raise BadInput(f"a filter may nest {DEEPEST} levels deep")
        parts: list[Node] = []
        for name, condition in where.items():
            if not isinstance(name, str):
                raise BadInput(f"an attribute's name is a string, got {name!r}")
            if name in LOGIC:
                if not isinstance(condition, Sequence) or isinstance(condition, str) or not condition:
                    raise BadInput(f"{name} takes a non-empty list of filters, got {condition!r}")
                inner = [self._group(item, depth + 1) for item in condition]
                parts.append(All(inner) if name == "$and" else Some(inner) if name == "$or" else Not(Some(inner)))
            elif name == "$not":
                parts.append(Not(self._group(condition, depth + 1)))
            elif name.startswith("$"):
                raise BadInput(f"unknown operator {name!r} in place of a name; there are $and, $or, $nor, $not")
            else:
                column, place = self._columns[self._all[name].name]
                conditions = condition if isinstance(condition, Mapping) else {"$eq": condition}
                if not conditions:
                    raise BadInput(f"the condition on {name!r} is empty; operators are {', '.join(OPERATORS)}")
                parts += [self._operator(column, place, op, value, depth) for op, value in conditions.items()]
        return All(parts)

    def _operator(self, column: Column, place: int, op: Any, value: Any, depth: int) -> Node:
        name = column.name
        if op == "$ne":
            return Not(self._operator(column, place, "$eq", value, depth))
        if op == "$nin":
            return Not(self._operator(column, place, "$in", value, depth))
        if op == "$not":
            if not isinstance(value, Mapping) or not value:
                raise BadInput(f"$not on {name!r} takes a condition like {{'$gt': 3}}, got {value!r}")
            if depth > DEEPEST:
                raise BadInput(f"a filter may nest {DEEPEST} levels deep")
            return Not(All([self._operator(column, place, one, item, depth + 1) for one, item in value.items()]))
        if op == "$exists":
            if not isinstance(value, bool):
                raise BadInput(f"$exists on {name!r} takes True or False, got {value!r}")
            there = self._there(column, place)
            return there if value else Not(there)
        if op in COMPARE and value is None:
            if op != "$eq":
                raise BadInput(f"{op} on {name!r} cannot compare with None; use {{'$exists': False}}")
            return Not(self._there(column, place))
        if op == "$in" and (not isinstance(value, Sequence) or isinstance(value, str)):
            raise BadInput(f"{op} on {name!r} takes a list, got {value!r}")
        if op not in COMPARE and op not in ("$in", "$glob"):
            raise BadInput(f"unknown operator {op!r} on {name!r}; operators are {', '.join(OPERATORS)}")
        if column.kind == "u":
            return _number(column, place, op, value)
        return self._labelled(column, place, op, value)

    def _there(self, column: Column, place: int) -> Node:
        if column.kind == "u":
            return Always(True)
        if column.kind == "set":
            return Any_(column, place, (1 << column.bits) - 1)
        return Between(column, place, 1, (1 << column.bits) - 1)

    def _labelled(self, column: Column, place: int, op: str, value: Any) -> Node:
        for item in value if op == "$in" else [value]:
            if not isinstance(item, str):
                raise BadInput(f"{op} on {column.name!r}, a {column.type}, compares with strings, got {item!r}")
        wanted = set(value) if op == "$in" else None

        def matches(label: str) -> bool:
            if wanted is not None:
                return label in wanted
            return fnmatchcase(label, value.replace("[^", "[!")) if op == "$glob" else COMPARE[op](label, value)

        numbers = [i for i, label in enumerate(self._all.labels(column.name)) if matches(label)]
        if not numbers:
            return Always(False)
        if column.kind == "set":
            return Any_(column, place, sum(1 << i for i in numbers))
        return _listed(column, place, np.array(numbers, dtype=np.int64) + 1)

    # From the tree to steps -------------------------------------------------------------------------------------------

    def _step(self, what: int, word: int = 0, mask: int = 0, low: int = 0, high: int = 0) -> int:
        self._steps.append((what, word, 0, 0))
        self._bounds.append((mask, low, high))
        return 1

    def _emit(self, node: Node) -> int:
        """Append the steps of a tree; how many answers they hold at once."""
        if isinstance(node, Always):
            return self._step(CONSTANT, int(node.value))
        if isinstance(node, Not):
            depth = self._emit(node.part)
            self._step(NOT)
            return depth
        if isinstance(node, All | Some):
            joined, rest = _joined(node.parts) if isinstance(node, All) else ([], node.parts)
            depth = 0
            for i, (word, mask, value) in enumerate(joined):
                depth = max(depth, min(i, 1) + self._step(TEST, word, mask, value, value))
                if i:
                    self._step(AND)
            for i, part in enumerate(rest, start=len(joined)):
                depth = max(depth, min(i, 1) + self._emit(part))
                if i:
                    self._step(AND if isinstance(node, All) else OR)
            return depth
        column = node.column
        if isinstance(node, Any_):
            return self._step(TEST, column.word, node.mask << column.shift, 1, FULL)
        if isinstance(node, Between):
            return self._step(TEST, column.word, column.mask, node.low << column.shift, node.high << column.shift)
        first = sum(map(len, self._table))
        self._table.append(node.numbers.astype(np.uint64) << np.uint64(column.shift))
        self._steps.append((LISTED, column.word, first, first + len(node.numbers)))
        self._bounds.append((column.mask, 0, 0))
        return 1


def _joined(parts: list[Node]) -> tuple[list[tuple[int, int, int]], list[Node]]:
    """Equalities of one word as one test (word, mask, value), and the other parts."""
    tests: dict[int, list[int]] = {}
    rest: list[Node] = []
    for part in parts:
        if isinstance(part, Between) and part.low == part.high:
            mask, value = part.column.mask, part.low << part.column.shift
        elif isinstance(part, Any_) and part.mask.bit_count() == 1:
            mask = value = part.mask << part.column.shift
        else:
            rest.append(part)
            continue
        test = tests.setdefault(part.column.word, [0, 0])
        if (test[0] & mask) & (test[1] ^ value):  # two values of one field: nothing passes
            return [], [Always(False)]
        test[0] |= mask
        test[1] |= value
    return [(word, mask, value) for word, (mask, value) in tests.items()], rest


def _simple(node: Node) -> Node:
    """Without constants inside, and groups of one or of groups alike."""
    if isinstance(node, Not):
        part = _simple(node.part)
        return Always(not part.value) if isinstance(part, Always) else part.part if isinstance(part, Not) else Not(part)
    if isinstance(node, All | Some):
        ends = isinstance(node, Some)  # what one part of this value makes of the whole
        parts: list[Node] = []
        for part in map(_simple, node.parts):
            if isinstance(part, Always):
                if part.value == ends:
                    return part
            elif type(part) is type(node):
                parts += part.parts  # type: ignore[union-attr]
            else:
                parts.append(part)
        return Always(not ends) if not parts else parts[0] if len(parts) == 1 else type(node)(parts)
    return node


def _listed(column: Column, place: int, numbers: np.ndarray) -> Node:
    """One of some numbers, ascending and different: a range if they follow one another."""
    low, high = int(numbers[0]), int(numbers[-1])
    return Between(column, place, low, high) if high - low == len(numbers) - 1 else Listed(column, place, numbers)


def _number(column: Column, place: int, op: str, value: Any) -> Node:
    for item in value if op == "$in" else [value]:
        if op == "$glob" or not isinstance(item, bool | int | float | np.integer | np.floating):
            raise BadInput(f"{op} on {column.name!r}, a {column.type}, compares with numbers, got {item!r}")
        if not math.isfinite(item):
            raise BadInput(f"{op} on {column.name!r} cannot compare with {item}")
    top = (1 << column.bits) - 1
    if op == "$in":
        numbers = np.array(sorted({int(item) for item in value if int(item) == item and 0 <= item <= top}), np.int64)
        return _listed(column, place, numbers) if len(numbers) else Always(False)
    low, high = 0, top
    if op == "$eq":
        low, high = math.ceil(value), math.floor(value)
    elif op in ("$gt", "$gte"):
        low = math.floor(value) + 1 if op == "$gt" else math.ceil(value)
    else:
        high = math.ceil(value) - 1 if op == "$lt" else math.floor(value)
    low, high = max(low, 0), min(high, top)
    if low > high:
        return Always(False)
    return Always(True) if (low, high) == (0, top) else Between(column, place, low, high)


def _zoned(node: Node, zones: Zones) -> tuple[np.ndarray, np.ndarray]:
    size = len(zones.low)
    if isinstance(node, Always):
        return np.full(size, node.value), np.full(size, not node.value)
    if isinstance(node, Not):
        may, fail = _zoned(node.part, zones)
        return fail, may
    if isinstance(node, All | Some):
        may, fail = _zoned(node.parts[0], zones)
        for part in node.parts[1:]:
            other = _zoned(part, zones)
            may, fail = (
                (may & other[0], fail | other[1]) if isinstance(node, All) else (may | other[0], fail & other[1])
            )
        return may, fail
    low, high, seen = (of[:, node.place] for of in zones)
    if isinstance(node, Any_):
        return (seen & np.uint64(node.mask)) != 0, np.ones(size, dtype=bool)
    if isinstance(node, Between):
        may = (high >= node.low) & (low <= node.high)
        if node.high - node.low < BUCKETS:
            wanted = sum(1 << v % BUCKETS for v in range(node.low, node.high + 1))
            may &= (seen & np.uint64(wanted)) != 0
        return may, (low < node.low) | (high > node.high)
    buckets = sum(1 << v for v in {int(v) % BUCKETS for v in node.numbers})
    ends = np.searchsorted(node.numbers, [low, high.astype(np.int64) + 1])
    may = (ends[1] > ends[0]) & ((seen & np.uint64(buckets)) != 0)
    return may, ~((low == high) & may)
