"""Packed attributes and their filters against plain Python over the values, in both forms; zones never lie."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inlay.errors import BadInput, Corrupt
from inlay.indexes.attribute_columns import Columns
from inlay.indexes.attribute_filter import Predicate
from inlay.indexes.attributes import Attributes
from inlay.kernels import attribute_scan as kernel
from inlay.kernels.attribute_scan import Heads, passes_plain, survivors, survivors_plain

pytest.importorskip("numba")

TYPES = {"year": "u12", "day": "u3", "lang": "cat4", "tags": "set6", "big": "u32", "more": "set40"}
LANGS, TAGS = ["bg", "en", "fr"], ["a", "b", "c"]


@contextmanager
def by_compiler(fast):
    with mock.patch.object(kernel, "compiled", return_value=fast):
        yield


@st.composite
def rows(draw):
    n = draw(st.integers(1, 30))

    def many(one):
        return draw(st.lists(one, min_size=n, max_size=n))

    return {
        "year": many(st.integers(1990, 2030)),
        "day": many(st.integers(0, 7)),
        "lang": many(st.sampled_from([*LANGS, None])),
        "tags": many(st.lists(st.sampled_from(TAGS), unique=True)),
        "big": many(st.sampled_from([0, 1, 2**31, 2**32 - 1])),
        "more": many(st.lists(st.sampled_from([str(i) for i in range(40)]), unique=True, max_size=3)),
    }


number = st.one_of(st.integers(-3, 2035), st.sampled_from([2010.5, 1.0, 2**32, 2**32 - 1, True]))
ORDER = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]


@st.composite
def conditions(draw):
    name = draw(st.sampled_from(list(TYPES)))
    kind = TYPES[name].rstrip("0123456789")
    labels = {"lang": [*LANGS, "xx"], "tags": [*TAGS, "z"], "more": ["0", "1", "39", "none"]}
    value = number if kind == "u" else st.sampled_from(labels[name])
    what = draw(st.integers(0, 5))
    if what == 0:
        return {name: draw(value)}
    if what == 1:
        return {name: {draw(st.sampled_from(["$in", "$nin"])): draw(st.lists(value, max_size=6))}}
    if what == 2:
        return {name: {"$exists": draw(st.booleans())}}
    if what == 3 and kind != "u":
        return {name: draw(st.sampled_from([None, {"$glob": "[b-f]*"}, {"$glob": "[^b]*"}, {"$not": {"$glob": "?"}}]))}
    return {name: {draw(st.sampled_from(ORDER)): draw(value) for _ in range(draw(st.integers(1, 2)))}}


filters = st.recursive(
    conditions(),
    lambda inner: st.one_of(
        st.builds(
            lambda op, parts: {op: parts},
            st.sampled_from(["$and", "$or", "$nor"]),
            st.lists(inner, min_size=1, max_size=4),
        ),
        st.builds(lambda part: {"$not": part}, inner),
        st.builds(lambda a, b: {**a, **b}, inner, inner),
    ),
    max_leaves=12,
)


def holds(row, where):
    """What the filter says of one row's values, by the rules of a collection."""
    for name, condition in where.items():
        if name in ("$and", "$or", "$nor"):
            each = [holds(row, part) for part in condition]
            if not {"$and": all(each), "$or": any(each), "$nor": not any(each)}[name]:
                return False
        elif name == "$not":
            if holds(row, condition):
                return False
        else:
            value = row[name]
            values = value if isinstance(value, list) else [] if value is None else [value]
            every = condition if isinstance(condition, dict) else {"$eq": condition}
            if not all(meets(values, op, wanted) for op, wanted in every.items()):
                return False
    return True


def meets(values, op, wanted):
    if op == "$ne":
        return not meets(values, "$eq", wanted)
    if op == "$nin":
        return not meets(values, "$in", wanted)
    if op == "$not":
        return not all(meets(values, inner, item) for inner, item in wanted.items())
    if op == "$exists":
        return bool(values) == wanted
    if op == "$eq" and wanted is None:
        return not values
    if op == "$glob":
        return any({"[b-f]*": "b" <= v[:1] <= "f", "[^b]*": v[:1] != "b", "?": len(v) == 1}[wanted] for v in values)
    test = {
        "$eq": lambda v: v == wanted, "$in": lambda v: v in wanted, "$gt": lambda v: v > wanted,
        "$gte": lambda v: v >= wanted, "$lt": lambda v: v < wanted, "$lte": lambda v: v <= wanted,
    }[op]  # fmt: skip
    return any(test(v) for v in values)


@settings(max_examples=100, deadline=None)
@given(rows(), filters)
def test_a_filter_keeps_what_plain_python_keeps(values, where):
    attributes = Attributes(TYPES)
    attributes.add(values)
    n = len(values["year"])
    truth = [holds({name: own[i] for name, own in values.items()}, where) for i in range(n)]
    for fast in (False, True):
        with by_compiler(fast):
            assert attributes.mask(where).tolist() == truth
    predicate = attributes.predicate(where)
    starts = np.arange(0, n, 4)
    may, fail = predicate.zones(attributes.columns.zones(attributes.words, starts))
    for i, start in enumerate(starts):
        own = truth[start : start + 4]
        assert may[i] or not any(own)
        assert fail[i] or all(own)


@settings(max_examples=50, deadline=None)
@given(rows())
def test_values_come_back_and_words_are_few(values):
    columns = Columns(TYPES)
    n = len(values["year"])
    words = columns.encode(values, n)
    assert columns.width == 2
    assert words.shape == (2, n)
    back = columns.decode(words)
    assert all(back[name] == values[name] for name in ("year", "day", "lang", "big"))
    assert [set(one) for one in back["tags"]] == [set(one) for one in values["tags"]]


def test_fields_do_not_overlap():
    columns = Columns({f"c{i}": f"u{i + 1}" for i in range(32)})
    seen = [0] * columns.width
    for one in columns:
        assert one.shift + one.bits <= 64
        assert not seen[one.word] & one.mask
        seen[one.word] |= one.mask


def test_equalities_of_one_word_are_one_test():
    columns = Columns(TYPES)
    columns.encode({"year": [2000], "day": [1], "lang": ["bg"], "tags": [["a", "b"]], "big": [0], "more": [[]]}, 1)
    where = {"year": 2000, "day": 1, "lang": "bg", "$and": [{"tags": "a"}, {"tags": "b"}]}
    words = len({columns[name].word for name in ("year", "day", "lang", "tags")})
    assert len(Predicate(columns, where).program.steps) == 2 * words - 1
    assert len(Predicate(columns, {"year": {"$in": [2000, 2001, 2002]}}).program.steps) == 1
    assert not len(Predicate(columns, {"year": {"$gte": 0}, "$nor": [{"lang": "xx"}]}).program.steps)


@pytest.mark.parametrize("id_bytes", [4, 8])
def test_survivors_of_blocks_agree_in_both_forms(id_bytes):
    rng = np.random.default_rng(0)
    columns = Columns({"a": "u4", "b": "u4", "c": "set64"})
    counts, parts, starts, at = np.array([5, 1, 40]), [], [], 0
    for n in counts.tolist():
        words = columns.encode({"a": rng.integers(0, 16, n), "b": rng.integers(0, 16, n), "c": [[]] * n}, n)
        ids = rng.permutation(100)[:n].astype(np.uint32 if id_bytes == 4 else np.uint64)
        own = words.tobytes() + ids.tobytes()
        own += bytes(-len(own) % 8)
        starts.append(at)
        parts.append(own)
        at += len(own)
    heads = Heads(np.frombuffer(b"".join(parts), np.uint8).copy(), np.array(starts), counts, columns.width, id_bytes)
    allow, dead = rng.random(100) < 0.8, np.packbits(rng.random(100) < 0.1, bitorder="little")
    nobody, none = np.empty(0, bool), np.empty(0, np.uint8)
    for where in ({}, {"a": {"$in": [1, 3, 9]}}, {"$or": [{"a": {"$lt": 5}}, {"b": 2}], "c": {"$exists": False}}):
        program = Predicate(columns, where).program
        for mask, gone in ((nobody, none), (allow, none), (nobody, dead), (allow, dead)):
            with by_compiler(True):
                quick = survivors(heads, program, mask, gone)
            for a, b in zip(quick, survivors_plain(heads, program, mask, gone), strict=True):
                assert np.array_equal(a, b)


def test_long_lists_of_values_are_looked_up():
    values = np.random.default_rng(0).integers(0, 1 << 20, 2000)
    attributes = Attributes({"key": "u20"})
    attributes.add({"key": values})
    wanted = values[:700].tolist() + [5, 5, 10**9]
    predicate = attributes.predicate({"key": {"$in": wanted}})
    assert len(predicate.program.steps) == 1
    truth = np.isin(values, wanted)
    assert np.array_equal(passes_plain(attributes.words, predicate.program), truth)
    with by_compiler(True):
        assert np.array_equal(attributes.mask({"key": {"$in": wanted}}), truth)


def test_rows_are_added_and_read_one_by_one():
    attributes = Attributes({"lang": "cat", "tags": "set32", "year": "u16"})
    for _ in range(3):
        attributes.add({"lang": ["bg", None], "tags": [["x"], ["y", "x"]], "year": np.array([1, 2], np.int32)})
    assert len(attributes) == 6
    assert attributes.nbytes == 48
    assert attributes[3] == {"lang": None, "tags": ["x", "y"], "year": 2}
    assert attributes.mask(None).all()
    assert attributes.columns.labels("lang") == ["bg"]
    with pytest.raises(IndexError):
        attributes[6]


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"a": "u33"}, "none of u1 to u32"), ({"a": "u"}, "none of"), ({"a": "set65"}, "none of"),
        ({"a": 3}, "none of"), ({"$a": "u8"}, r"begin with \$"), ({}, "at least one column"), ([], "dictionary"),
    ],
)  # fmt: skip
def test_types_are_checked(types, message):
    with pytest.raises(BadInput, match=message):
        Attributes(types)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"year": [1, 2]}, "one a row, got 1"),
        ({"year": [4096]}, "is 4096; u12 ends at 4095"), ({"year": [-1]}, "is -1"),
        ({"year": [1.5]}, "integers"), ({"lang": [7]}, "takes strings, got 7"), ({"lang": "bg"}, "one a row"),
        ({"tags": ["bg"]}, "list of labels"), ({"tags": [[1]]}, "takes strings"), ({"lang": ["\ud800"]}, "Unicode"),
        ({"tags": [list("abcdefg")]}, "'g' is one more than the 6 of set6"), ({"other": [1]}, "have other"),
    ],
)  # fmt: skip
def test_values_are_checked_and_nothing_is_kept_of_those_refused(change, message):
    attributes = Attributes({"year": "u12", "lang": "cat4", "tags": "set6"})
    with pytest.raises(BadInput, match=message):
        attributes.add({"year": [1], "lang": ["new"], "tags": [["new"]]} | change)
    assert len(attributes) == 0
    assert attributes.columns.labels("lang") == []
    assert attributes.columns.labels("tags") == []


def test_a_missing_column_is_named():
    with pytest.raises(BadInput, match="lack lang"):
        Attributes({"year": "u12", "lang": "cat"}).add({"year": [1]})


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"country": 1}, "no attribute 'country'; there are year, lang, tags"),
        ({"year": {"$above": 1}}, r"\$above.*\$eq"),
        ({"year": "2000"}, "compares with numbers"), ({"year": float("nan")}, "nan"), ({"lang": 3}, "strings, got 3"),
        ({"year": {}}, "empty"), ({"$xor": []}, "unknown operator"), ({"$or": []}, "non-empty list"), (3, "dictionary"),
        ({"year": {"$in": 3}}, "takes a list"), ({"year": {"$gt": None}}, "None"),
        ({"year": {"$exists": 1}}, "True or False"),
        ({"year": {"$glob": "2*"}}, "numbers"), ({"lang": {"$not": 3}}, "condition"), ({3: 3}, "a string"),
    ],
)  # fmt: skip
def test_filters_are_checked(where, message):
    attributes = Attributes({"year": "u12", "lang": "cat4", "tags": "set6"})
    with pytest.raises(BadInput, match=message):
        attributes.mask(where)


def test_a_filter_may_not_nest_for_ever():
    where = {"year": 1}
    for _ in range(200):
        where = {"$not": where}
    with pytest.raises(BadInput, match="64 levels"):
        Attributes({"year": "u12"}).mask(where)


def test_saved_and_loaded(tmp_path):
    attributes = Attributes({"year": "u12", "lang": "cat4", "tags": "set6"})
    attributes.add({"year": [1, 2], "lang": ["bg", None], "tags": [["a"], ["b", "a"]]})
    path = tmp_path / "attributes.inlay"
    attributes.save(path)
    again = Attributes.load(path)
    assert again.columns.types == attributes.columns.types
    assert [again[i] for i in range(2)] == [attributes[i] for i in range(2)]
    again.add({"year": [3], "lang": ["en"], "tags": [["c"]]})
    assert again.mask({"lang": "en"}).tolist() == [False, False, True]
    data = path.read_bytes()
    for place in range(0, len(data), 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises((Corrupt, BadInput)):
            Attributes.load(path)
    path.write_bytes(data[:-60])
    with pytest.raises(Corrupt):
        Attributes.load(path)
    with pytest.raises(BadInput, match="no attributes"):
        Attributes.load(tmp_path / "none")
