"""Read `--where`: a Mongo-style filter as JSON, or a shorthand that is quicker to type.

    year>=2020        {"year": {"$gte": 2020}}
    lang=en           {"lang": "en"}
    kind!=code        {"kind": {"$ne": "code"}}
    lang=["en","de"]  {"lang": {"$in": ["en", "de"]}}
    path~*.py         {"path": {"$glob": "*.py"}}

A value is what JSON reads it as, and a string where JSON reads nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from inlay.errors import BadInput

__all__ = ["both", "globs", "parse"]

OPERATORS = {">=": "$gte", "<=": "$lte", "!=": "$ne", "==": "$eq", "=": "$eq", ">": "$gt", "<": "$lt", "~": "$glob"}
SHORTHAND = re.compile(r"\s*([^\W\d][\w.\-]*)\s*(>=|<=|!=|==|=|>|<|~)(.*)", re.DOTALL)

Where = dict[str, Any]


def parse(conditions: Sequence[str]) -> Where | None:
    """Read the conditions given; a document must meet all of them. None where there are none."""
    return both(*(_one(condition) for condition in conditions))


def both(*parts: Where | None) -> Where | None:
    """The filter that holds where every part holds."""
    given = [part for part in parts if part]
    if len(given) > 1:
        return {"$and": given}
    return given[0] if given else None


def globs(include: Sequence[str], exclude: Sequence[str]) -> Where | None:
    """Patterns for files, as on the command line of grep, as a filter on `path`."""
    wanted = {"$or": [pattern for glob in include for pattern in _paths(glob)]} if include else None
    return both(wanted, *({"$not": pattern} for glob in exclude for pattern in _paths(glob)))


def _paths(glob: str) -> list[Where]:
    """The paths that one pattern stands for: a file of that name in any folder, or all that lies below it."""
    glob = glob.removeprefix("./")
    anchored = "/" in glob.rstrip("/")
    glob = glob.strip("/")
    if not glob:
        raise BadInput("an empty pattern matches nothing; give one such as '*.py' or 'docs/'")
    starts = [glob] if anchored else [glob, f"*/{glob}"]
    return [{"path": {"$glob": pattern}} for start in starts for pattern in (start, f"{start}/*")]


def _one(condition: str) -> Where:
    if condition.lstrip().startswith("{"):
        try:
            value = json.loads(condition)
        except json.JSONDecodeError as error:
            raise BadInput(f"--where {condition!r} is not valid JSON: {error}") from None
        assert isinstance(value, dict)
        return value
    match = SHORTHAND.fullmatch(condition)
    if match is None:
        raise BadInput(
            f"--where {condition!r} is not understood. Write a field, one of = != > >= < <= ~ and a value, in quotes "
            "so that the shell leaves it alone ('year>=2020'), or a JSON filter ('{\"year\": {\"$gte\": 2020}}')"
        )
    field, sign, text = match.groups()
    if text[:1] in "=<>" and text:
        raise BadInput(f"--where {condition!r}: there is no operator {sign + text[0]!r}; write >= or <=")
    operator, value = OPERATORS[sign], _value(text.strip())
    if operator == "$glob":
        return {field: {operator: text.strip()}}
    if isinstance(value, list) and operator in ("$eq", "$ne"):
        return {field: {"$in" if operator == "$eq" else "$nin": value}}
    return {field: value} if operator == "$eq" and not isinstance(value, dict) else {field: {operator: value}}


def _value(text: str) -> Any:
    """What JSON reads as a value is that value, and everything else is a string: 2020, true, "2020", en."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are no JSON: as a value they are a word like another
