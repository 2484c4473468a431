"""What people hand in becomes Documents whose every value can be stored and comes back the same."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from inlay.collection import intake
from inlay.collection.filters import flatten
from inlay.collection.intake import as_document, as_json, batches, each, name_of
from inlay.errors import BadInput
from inlay.types import Chunk, Document

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
names = text.filter(lambda name: name and not name.startswith("$") and name not in ("id", "text"))
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | text
scalars = plain | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=10
)
metadata = st.dictionaries(names, values, max_size=5)


@given(metadata, text.filter(str.strip))
def test_metadata_survives_storing(data: dict[str, Any], words: str) -> None:
    document = as_document({"text": words, **data}, "default")
    assert document == Document("default", words, data)
    assert json.loads(as_json(document.metadata)) == data
    assert as_document(document, "other") == document, "a Document is already in its form"


@given(st.recursive(st.just(object()) | scalars | st.binary() | st.floats(), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)))  # fmt: skip
@settings(max_examples=200)
def test_any_value_is_stored_or_refused_by_name(value: Any) -> None:
    try:
        document = as_document({"text": "t", "m": value}, "d")
    except BadInput:
        return
    stored = json.loads(as_json(document.metadata))
    assert stored == document.metadata
    for name, item in flatten(stored):
        assert isinstance(name, str)
        assert isinstance(item, str | int | float)


class Colour(str, enum.Enum):  # noqa: UP042 - the older form, whose str() is its name
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Author:
    name: str


@dataclasses.dataclass
class Paper:
    text: str
    author: Author
    year: int = 2024


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.int64(3), 3), (np.float32(0.25), 0.25), (np.bool_(True), True), (np.str_("x"), "x"), (np.arange(2), [0, 1]),
        ((1, 2), [1, 2]), ({1}, [1]), (datetime.date(2024, 1, 2), "2024-01-02"), (datetime.time(1, 2), "01:02:00"),
        (float("nan"), None), (float("inf"), None), (Colour.RED, "red"), (Level.HIGH, 3),
        ([None, [float("nan")]], [None, [None]]), ({"a": {"b": (1,)}}, {"a": {"b": [1]}}),
    ],
)  # fmt: skip
def test_values_that_have_a_json_form(value: Any, stored: Any) -> None:
    found = as_document({"text": "t", "m": value}, "d").metadata["m"]
    assert found == stored
    assert type(found) is type(stored)


def test_dataclasses() -> None:
    assert as_document(Paper("t", Author("Ada")), "d") == Document("d", "t", {"author": {"name": "Ada"}, "year": 2024})
    with pytest.raises(BadInput, match="'text'"):
        as_document(Author("x"), "d")
    with pytest.raises(BadInput, match="type"):
        as_document(Paper, "d")


@given(st.integers() | text.filter(bool))
def test_ids(name: Any) -> None:
    assert as_document({"id": name, "text": "t"}, "d").id == str(name)


def test_what_is_handed_in_is_not_changed() -> None:
    given_ = {"id": "a", "text": "t", "list": [1, (2,)], "sub": {"x": {1}}}
    document = Document("a", "t", {"sub": {"x": (1,)}}, [Chunk(0, 1)])
    as_document(given_, "d")
    made = as_document(document, "d")
    made.metadata["new"] = 1
    assert given_ == {"id": "a", "text": "t", "list": [1, (2,)], "sub": {"x": {1}}}
    assert document == Document("a", "t", {"sub": {"x": (1,)}}, [Chunk(0, 1)])


def test_depth_is_bounded_and_said() -> None:
    def nest(levels: int) -> Any:
        value: Any = "x"
        for _ in range(levels):
            value = [{"k": value}]
        return value

    assert as_document({"text": "t", "m": nest(15)}, "d").metadata["m"] == nest(15)
    for levels in (17, 100, 5000):
        with pytest.raises(BadInput, match="deep"):
            as_document({"text": "t", "m": nest(levels)}, "d")


@given(st.lists(st.text("ab", min_size=1, max_size=30), max_size=40), st.integers(1, 5), st.integers(1, 60))
def test_batches_keep_order_and_bounds(texts: list[str], most: int, characters: int) -> None:
    before = intake.BATCH_DOCUMENTS, intake.BATCH_CHARACTERS
    intake.BATCH_DOCUMENTS, intake.BATCH_CHARACTERS = most, characters
    try:
        made = list(batches(iter(texts)))
    finally:
        intake.BATCH_DOCUMENTS, intake.BATCH_CHARACTERS = before
    assert [text for batch in made for text in batch] == texts
    assert all(0 < len(batch) <= max(most, 2) for batch in made)
    # Only the last text of a batch may take it over the bound.
    assert all(sum(map(len, batch[:-1])) < characters + 30 for batch in made)


@pytest.mark.parametrize("wrong", ["text", b"text", {"text": "x"}, None, 3, 1.5, object(), Document("a", "b")])
def test_what_is_no_list(wrong: Any) -> None:
    with pytest.raises(BadInput, match=r"list of documents"):
        each(wrong)


def test_tables_row_by_row() -> None:
    pd, pa = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    rows = [{"text": "a", "n": 1, "l": [1, 2]}, {"text": "b", "n": 2, "l": []}]
    assert list(each(pa.Table.from_pylist(rows))) == rows
    assert list(each(pa.RecordBatch.from_pylist(rows))) == rows
    assert list(each(pa.array(["a", "b"]))) == ["a", "b"]
    assert list(each(pd.DataFrame(rows))) == rows
    assert list(each(pd.DataFrame({"text": ["a"], 3: [4]}))) == [{"text": "a", "3": 4}]
    (row,) = each(pd.DataFrame({"text": ["a"], "x": [np.nan]}))
    assert as_document(row, "d").metadata == {"x": None}


@pytest.mark.parametrize(
    ("item", "ids", "name"),
    [
        ({"id": "a"}, None, "a"), ({"id": 0}, None, "0"), ("text", ["x", "y"], "y"), (None, None, "number 1"),
        ({}, None, "number 1"), (object(), None, "number 1"), (Document("d", ""), ["x", "y"], "d"),
    ],
)  # fmt: skip
def test_failures_are_named(item: Any, ids: Any, name: str) -> None:
    assert name_of(item, ids, 1) == name
