"""Mongo-style filters over metadata, compiled to parameterised SQL.

Field names and values are bound as parameters, never spliced into the statement, so no name can change its meaning.
A field that holds a list matches where any of its elements does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from inlay.errors import BadInput

__all__ = ["compile_filter", "flatten"]

_COMPARE = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_OPERATORS = sorted([*_COMPARE, "$ne", "$in", "$nin", "$exists", "$glob", "$not"])
_LOGIC = ("$and", "$or", "$nor")
_DEEPEST = 64
_WIDEST = 10_000  # conditions; SQLite takes three times as many parameters
_LONGEST_PATTERN = 10_000


def flatten(metadata: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The (name, value) pairs a document can be found by: nested names joined by dots, lists element by element."""
    pairs: list[tuple[str, Any]] = []
    for name, value in metadata.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                pairs += flatten(item, f"{prefix}{name}.")
            elif isinstance(item, list):
                pairs += flatten({name: item}, prefix)
            elif item is not None:
                pairs.append((f"{prefix}{name}", item))
    return pairs


def compile_filter(where: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """A SQL condition on `documents.doc` and its parameters.

    Raises:
        BadInput: an unknown operator or a value of the wrong type, named together with what is allowed.
    """
    parameters: list[Any] = []
    condition = _group(where, parameters, 0)
    if len(parameters) > 2 * _WIDEST:
        raise BadInput(f"a filter may have {_WIDEST:,} conditions; use $in for long lists of values")
    return condition, parameters


def _joined(parts: Sequence[str], word: str) -> str:
    """Parts joined as a balanced tree: SQLite bounds the depth of an expression, and a plain chain is all depth."""
    if len(parts) <= 8:
        return word.join(parts)
    half = len(parts) // 2
    return f"({_joined(parts[:half], word)}){word}({_joined(parts[half:], word)})"


def _group(where: Any, parameters: list[Any], depth: int) -> str:
    if not isinstance(where, Mapping):
        raise BadInput(f"a filter is a dictionary like {{'year': {{'$gte': 2020}}}}, got {where!r}")
    if depth > _DEEPEST:
        raise BadInput(f"a filter may nest {_DEEPEST} levels deep")
    parts = []
    for name, condition in where.items():
        if not isinstance(name, str):
            raise BadInput(f"a field name is a string, got {name!r}")
        _encodable(name, name)
        if name in _LOGIC:
            if not isinstance(condition, Sequence) or isinstance(condition, str) or not condition:
                raise BadInput(f"{name} takes a non-empty list of filters, got {condition!r}")
            inner = [_group(item, parameters, depth + 1) for item in condition]
            joined = _joined(inner, " AND " if name == "$and" else " OR ")
            parts.append(f"NOT ({joined})" if name == "$nor" else f"({joined})")
        elif name == "$not":
            parts.append(f"NOT ({_group(condition, parameters, depth + 1)})")
        elif name.startswith("$"):
            raise BadInput(f"unknown operator {name!r} in place of a field name; there are $and, $or, $nor, $not")
        elif isinstance(condition, Mapping):
            if not condition:
                raise BadInput(f"the condition on {name!r} is empty; operators are {', '.join(_OPERATORS)}")
            parts += [_operator(name, op, value, parameters, depth) for op, value in condition.items()]
        else:
            parts.append(_operator(name, "$eq", condition, parameters, depth))
    return f"({_joined(parts, ' AND ') or '1'})"


def _operator(name: str, op: str, value: Any, parameters: list[Any], depth: int) -> str:
    def having(test: str, *values: Any) -> str:
        parameters.append(name)
        parameters.extend(values)
        return f"doc IN (SELECT doc FROM fields WHERE name=?{test})"

    if op in _COMPARE:
        if value is None:
            if op != "$eq":
                raise BadInput(f"{op} on {name!r} cannot compare with None; use {{'$exists': False}}")
            return f"NOT {having('')}"
        kind = _type(name, op, value)
        # SQLite orders every number before every text: without the type test, $gte 2020 would match all strings.
        return having(f" AND value{_COMPARE[op]}? AND typeof(value) {kind}", value)
    if op == "$ne":
        return f"NOT {_operator(name, '$eq', value, parameters, depth)}"
    if op in ("$in", "$nin"):
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise BadInput(f"{op} on {name!r} takes a list, got {value!r}")
        for item in value:
            _type(name, op, item)
        # One parameter however long the list is: SQLite bounds the number of parameters, not the size of one.
        test = having(" AND value IN (SELECT value FROM json_each(?))", json.dumps(list(value)))
        return f"NOT {test}" if op == "$nin" else test
    if op == "$exists":
        if not isinstance(value, bool):
            raise BadInput(f"$exists on {name!r} takes True or False, got {value!r}")
        return having("") if value else f"NOT {having('')}"
    if op == "$glob":
        if not isinstance(value, str):
            raise BadInput(f"$glob on {name!r} takes a pattern like 'docs/*.md', got {value!r}")
        if len(value.encode("utf-8", "replace")) > _LONGEST_PATTERN:
            raise BadInput(f"$glob on {name!r}: the pattern has {len(value):,} characters, too many to match")
        _encodable(name, value)
        return having(" AND typeof(value)='text' AND value GLOB ?", value)
    if op == "$not":
        if not isinstance(value, Mapping) or not value:
            raise BadInput(f"$not on {name!r} takes a condition like {{'$gt': 3}}, got {value!r}")
        if depth > _DEEPEST:
            raise BadInput(f"a filter may nest {_DEEPEST} levels deep")
        inner = [_operator(name, inner_op, item, parameters, depth + 1) for inner_op, item in value.items()]
        return f"NOT ({_joined(inner, ' AND ')})"
    raise BadInput(f"unknown operator {op!r} on {name!r}; operators are {', '.join(_OPERATORS)}")


def _encodable(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"the filter on {name!r} is not valid Unicode: {text!r:.80}") from None


def _type(name: str, op: str, value: Any) -> str:
    if isinstance(value, str):
        _encodable(name, value)
        return "='text'"
    if isinstance(value, bool | int | float):
        if isinstance(value, float) and not math.isfinite(value):
            raise BadInput(f"{op} on {name!r} cannot compare with {value}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise BadInput(f"{op} on {name!r}: {value} does not fit 64 bits")
        return "IN ('integer','real')"
    raise BadInput(f"{op} on {name!r} compares with a string, a number or a boolean, got {value!r}")
