"""Filters: what they select, against a plain reading of the same rules; and that no name or value can break out."""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import inlay
from inlay.collection.filters import compile_filter, flatten
from inlay.errors import BadInput

# -- the rules, written down a second time -------------------------------------------------------------------------


def values(metadata: Mapping[str, Any], name: str) -> list[Any]:
    """Every scalar that stands under a dotted name; lists stand for each of their elements."""
    found: list[Any] = []
    for key, value in metadata.items():
        for item in leaves(value):
            if isinstance(item, Mapping):
                if name.startswith(key + "."):
                    found += values(item, name[len(key) + 1 :])
            elif key == name and item is not None:
                found.append(item)
    return found


def leaves(value: Any) -> list[Any]:
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def comparable(a: Any, b: Any) -> bool:
    return isinstance(a, str) == isinstance(b, str)


COMPARE = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def holds(found: list[Any], op: str, value: Any) -> bool:
    match op:
        case "$eq":
            return not found if value is None else any(comparable(x, value) and x == value for x in found)
        case "$ne":
            return not holds(found, "$eq", value)
        case "$in":
            return any(holds(found, "$eq", item) for item in value)
        case "$nin":
            return not holds(found, "$in", value)
        case "$exists":
            return bool(found) == value
        case "$glob":
            return any(isinstance(x, str) and fnmatch.fnmatchcase(x, value) for x in found)
        case "$not":
            return not all(holds(found, *item) for item in value.items())
    return any(comparable(x, value) and COMPARE[op](x, value) for x in found)


def matches(metadata: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    for name, condition in where.items():
        match name:
            case "$and":
                ok = all(matches(metadata, part) for part in condition)
            case "$or":
                ok = any(matches(metadata, part) for part in condition)
            case "$nor":
                ok = not any(matches(metadata, part) for part in condition)
            case "$not":
                ok = not matches(metadata, condition)
            case _:
                tests = condition if isinstance(condition, Mapping) else {"$eq": condition}
                ok = all(holds(values(metadata, name), *test) for test in tests.items())
        if not ok:
            return False
    return True


# -- random metadata and filters -----------------------------------------------------------------------------------

HOSTILE = [
    "a'b", 'a"b', "a;b", "'; DROP TABLE documents; --", "a`b", "a?1", "?", ":x", "a b", "%", "_", "[a]", "ü", "😀",
]  # fmt: skip
NAMES = ["a", "b", "c", "a.b", "a.b.c", "b.c", "doc", "name", "value", *HOSTILE]
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
numbers = st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
few = st.sampled_from([0, 1, 2, 1.0, 0.5, -0.0, True, False, "", "a", "ab", "1", "True", "ü", "a*", *HOSTILE])
scalars = few | numbers | text
names = st.sampled_from(NAMES)
metadata = st.recursive(
    st.none() | scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(names, metadata, max_size=4)


def conditions(depth: int = 2) -> Any:
    plain = (
        st.fixed_dictionaries({"$eq": st.none() | scalars})
        | st.fixed_dictionaries({"$ne": st.none() | scalars})
        | st.dictionaries(st.sampled_from(sorted(COMPARE)), scalars, min_size=1, max_size=2)
        | st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=4), min_size=1)
        | st.fixed_dictionaries({"$exists": st.booleans()})
        | st.fixed_dictionaries({"$glob": st.text("ab*?", max_size=4)})
    )
    return plain | st.fixed_dictionaries({"$not": conditions(depth - 1)}) if depth else plain


filters = st.recursive(
    st.dictionaries(names, st.none() | scalars | conditions(), max_size=3),
    lambda inner: (
        st.dictionaries(
            st.sampled_from(["$and", "$or", "$nor"]), st.lists(inner, min_size=1, max_size=3), min_size=1, max_size=2
        )
        | st.fixed_dictionaries({"$not": inner})
    ),
    max_leaves=4,
)


def select(rows: list[Mapping[str, Any]], where: Mapping[str, Any]) -> list[int]:
    """What SQLite answers, from tables made as the catalog makes them."""
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE documents(doc INTEGER PRIMARY KEY)")
    db.execute("CREATE TABLE fields(name TEXT, value, doc INTEGER, PRIMARY KEY(name, value, doc)) WITHOUT ROWID")
    db.executemany("INSERT INTO documents VALUES(?)", [(i,) for i in range(len(rows))])
    pairs = [(name, value, i) for i, row in enumerate(rows) for name, value in flatten(row)]
    db.executemany("INSERT OR IGNORE INTO fields VALUES(?,?,?)", pairs)
    condition, parameters = compile_filter(where)
    return [row[0] for row in db.execute(f"SELECT doc FROM documents WHERE {condition} ORDER BY doc", parameters)]


@settings(max_examples=250, deadline=None)
@given(st.lists(documents, max_size=6), filters)
def test_sql_agrees_with_the_rules(rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    assert select(rows, where) == [i for i, row in enumerate(rows) if matches(row, where)]


@settings(max_examples=100, deadline=None)
@given(documents, names, scalars)
def test_a_value_finds_its_document(row: dict[str, Any], name: str, value: Any) -> None:
    row = {**row, name: [value, row.get(name)]}
    for where in ({name: value}, {name: {"$in": [value]}}, {name: {"$lte": value, "$gte": value}}):
        assert select([row, {}], where) == [0]
    assert select([row, {}], {name: {"$nin": [value]}}) == [1]
    assert select([row, {}], {name: None}) == [1]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, "abcde"),
        ({"year": 2020}, "a"),
        ({"year": {"$gte": 2020}}, "ab"),
        ({"year": {"$gte": "2020"}}, "c"),
        ({"year": {"$gte": 2020, "$lt": 2021}}, "a"),
        ({"year": {"$ne": 2020}}, "bcde"),
        ({"year": None}, "de"),
        ({"year": {"$exists": True}}, "abc"),
        ({"tags": "x"}, "ab"),
        ({"tags": {"$nin": ["x"]}}, "cde"),
        ({"tags": {"$in": ["x", "z"]}}, "abc"),
        ({"flag": True}, "d"),
        ({"flag": {"$in": [True]}}, "d"),
        ({"deep.er.name": "q"}, "e"),
        ({"name": {"$glob": "docs/*.md"}}, "b"),
        ({"name": {"$not": {"$glob": "docs/*"}}}, "cde"),
        ({"$or": [{"year": 2020}, {"flag": True}]}, "ad"),
        ({"$nor": [{"year": 2020}, {"flag": True}]}, "bce"),
        ({"$not": {"year": 2020}}, "bcde"),
        ({"$and": [{"tags": "x"}, {"tags": "y"}]}, "b"),
    ],
)
def test_in_a_collection(tmp_path_factory: pytest.TempPathFactory, where: dict[str, Any], expected: str) -> None:
    c = _collection(tmp_path_factory)
    assert {h.id for h in c.search("text", where=where)} == set(expected)


_made: list[inlay.Collection] = []


def _collection(factory: pytest.TempPathFactory) -> inlay.Collection:
    if not _made:
        c = inlay.open(factory.mktemp("filters") / "c.inlay", encoder=False)
        c.add([
            {"id": "a", "text": "text", "year": 2020, "tags": ["x"], "name": "docs/a.rst"},
            {"id": "b", "text": "text", "year": [2021, 2022.5], "tags": ["x", "y"], "name": "docs/b.md"},
            {"id": "c", "text": "text", "year": "2020", "tags": "z"},
            {"id": "d", "text": "text", "year": None, "flag": True},
            {"id": "e", "text": "text", "deep": {"er": [{"name": "p"}, {"name": "q"}]}, "flag": False},
        ])  # fmt: skip
        _made.append(c)
    return _made[0]


MALFORMED = [
    [], "year", 3, {"a"}, {3: 1}, {None: 1},
    {"$year": 1}, {"$where": "1"}, {"a": {"$foo": 1}}, {"a": {"gt": 1}}, {"a": {}}, {"a": {3: 1}},
    {"a": [1]}, {"a": b"x"}, {"a": object()}, {"a": float("nan")}, {"a": {"$gt": float("inf")}}, {"a": 2**63},
    {"a": {"$gt": None}}, {"a": {"$gt": [1]}}, {"a": {"$in": 3}}, {"a": {"$in": "abc"}}, {"a": {"$in": [None]}},
    {"a": {"$in": [[1]]}}, {"a": {"$in": [2**64]}}, {"a": {"$in": b"ab", "$nin": None}}, {"a": {"$exists": 1}},
    {"a": {"$glob": 3}}, {"a": {"$glob": "*" * 60_000}}, {"a": {"$not": 3}}, {"a": {"$not": {}}},
    {"$and": []}, {"$or": {}}, {"$or": "ab"}, {"$nor": 1}, {"$and": [3]}, {"$not": [1]}, {"$not": None},
    {"a": "\ud800"}, {"\ud800": 1}, {"a": {"$in": ["\ud800"]}}, {"a": {"$glob": "\ud800"}},
]  # fmt: skip


# Without addresses: processes that share the tests out must find the same ones.
NAMES = [re.sub(r" at 0x\w+", "", repr(where))[:40] for where in MALFORMED]


@pytest.mark.parametrize("where", MALFORMED, ids=NAMES)
def test_malformed_filters_are_named(tmp_path_factory: pytest.TempPathFactory, where: Any) -> None:
    c = _collection(tmp_path_factory)
    with pytest.raises(BadInput):
        c.search("text", where=where)
    assert len(c.search("text", where={"year": 2020})) == 1


def test_deep_and_wide_filters(tmp_path_factory: pytest.TempPathFactory) -> None:
    c = _collection(tmp_path_factory)

    def nested(n: int, where: Any) -> Any:
        for _ in range(n):
            where = {"$not": where}
        return where

    def nested_condition(n: int) -> Any:
        condition: Any = {"$eq": 2020}
        for _ in range(n):
            condition = {"$not": condition}
        return {"year": condition}

    assert {h.id for h in c.search("text", where=nested(60, {"year": 2020}))} == {"a"}
    assert {h.id for h in c.search("text", where=nested_condition(60))} == {"a"}
    for where in (nested(3000, {"year": 2020}), nested_condition(3000)):
        with pytest.raises(BadInput, match="deep"):
            c.search("text", where=where)
    for logic in ("$or", "$nor"):
        found = {h.id for h in c.search("text", where={logic: [{"year": 2020 + i // 2000} for i in range(4000)]})}
        assert found == (set("ab") if logic == "$or" else set("cde"))
    assert c.search("text", where={f"n{i}": {"$exists": False} for i in range(3000)})
    assert c.search("text", where={"year": {"$in": list(range(100_000))}})[0].id == "a"
    with pytest.raises(BadInput, match="conditions"):
        c.search("text", where={"$or": [{"year": i} for i in range(50_000)]})


@pytest.mark.parametrize("name", [*HOSTILE, "x' OR '1'='1", "doc) OR 1=1 --", "fields.doc", "a.$b", "\\", "\n", "*/"])
def test_hostile_names_are_only_names(tmp_path: Path, name: str) -> None:
    with inlay.open(tmp_path / "c.inlay", encoder=False) as c:
        c.add([{"id": "with", "text": "word", name: name}, {"id": "without", "text": "word"}])
        assert [h.id for h in c.search("word", where={name: name})] == ["with"]
        assert [h.id for h in c.search("word", where={name: {"$exists": False}})] == ["without"]
        assert [h.id for h in c.search("word", where={name: {"$in": [name]}})] == ["with"]
        assert c.search("word", where={name: name + "x"}) == []
        c.update([{"id": "with", "text": "word", name: "changed"}])
        assert c.search("word", where={name: name}) == []
        assert c.verify() == []
        assert len(c) == 2
