"""Tables: JSON lines, JSON lists, CSV and TSV, each row a document."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

from inlay.documents import prose
from inlay.documents.spans import LIMIT, cut
from inlay.types import Chunk, Document

__all__ = ["read"]

Report: TypeAlias = Callable[[str, str], None]

TEXT_FIELDS = ("text", "content", "contents", "body", "passage", "document", "abstract", "description")
TITLE_FIELDS = ("title", "name", "headline", "subject")
_OURS = ("path", "kind", "row", "line")
_LONGEST_METADATA = 200  # characters of a field that is worth filtering by
_INTEGER = re.compile(r"-?(?:0|[1-9]\d{0,17})\Z")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,17})\.\d{1,17}\Z")
_BLANKS = re.compile(r"[ \t\n\r]*")


def read(text: str, name: str, suffix: str, on_skip: Report) -> list[Document] | None:
    """One document for each row; None for JSON that is no list of objects.

    The text of a row is its text field, under its title if it has one, or else every field as `field: value`. Other
    short fields become metadata, beside `row` (counted from 1) and `line`.
    """
    if suffix == "json":
        items = _json_items(text)
        if items is None:
            return None
        return [
            document
            for row, line, last, fields in items
            if (document := _document(f"{name}#{row}", name, row, line, last, fields))
        ]
    records = _csv(text, name, suffix, on_skip) if suffix in ("csv", "tsv") else _json_lines(text, name, on_skip)
    return [
        document
        for row, (line, last, fields) in enumerate(records, start=1)
        if (document := _document(f"{name}#{line}", name, row, line, last, fields))
    ]


def _document(id: str, name: str, row: int, line: int, last_line: int, fields: dict[str, Any]) -> Document | None:
    text, used = _words(fields)
    if not text.strip():
        return None
    metadata = {
        f"{key}_" if key in _OURS else key: value for key, value in fields.items() if key != used and _is_scalar(value)
    }
    metadata.update(path=name, kind="rows", row=row, line=line)
    if len(text) <= LIMIT:
        chunks = [Chunk(0, len(text), line, last_line)]
    else:
        # The row's lines are all that can be said of a passage within it.
        chunks = [replace(chunk, line=line, last_line=last_line) for chunk in cut(text, prose.units(text))]
    return Document(id, text, metadata, chunks)


def _words(fields: dict[str, Any]) -> tuple[str, str | None]:
    """The text of a row, and the field that it is, if it is one."""
    by_name = {key.lower(): key for key, value in fields.items() if isinstance(value, str) and value.strip()}
    field = next((by_name[key] for key in TEXT_FIELDS if key in by_name), None)
    title = next((fields[by_name[key]] for key in TITLE_FIELDS if key in by_name), None)
    if field is not None:
        return (f"{title}\n{fields[field]}" if title else fields[field]), field
    said = [f"{key}: {value}" for key, value in fields.items() if isinstance(value, str) and value.strip()]
    return "\n".join(said), None


def _is_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_METADATA
    return isinstance(value, (bool, int, float))


def _json_lines(text: str, name: str, on_skip: Report) -> Iterator[tuple[int, int, dict[str, Any]]]:
    for line, row in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not row.strip():
            continue
        try:
            value = json.loads(row)
        except (ValueError, RecursionError) as error:
            on_skip(f"{name}#{line}", f"malformed JSON: {error}")
            continue
        if isinstance(value, str):
            value = {"text": value}
        if isinstance(value, dict):
            yield line, line, value
        else:
            on_skip(f"{name}#{line}", f"expected a JSON object, got a {type(value).__name__}")


def _json_items(text: str) -> list[tuple[int, int, int, dict[str, Any]]] | None:
    """The objects of a JSON list with their item numbers and lines, or None if it is anything else."""
    decode = json.JSONDecoder().raw_decode
    at = _skip_blanks(text, 0)
    if text[at : at + 1] != "[":
        return None
    at = _skip_blanks(text, at + 1)
    items: list[tuple[int, int, int, dict[str, Any]]] = []
    line, counted = 1, 0
    while text[at : at + 1] == "{":
        try:
            value, end = decode(text, at)
        except (ValueError, RecursionError):
            return None
        line += text.count("\n", counted, at)
        last = line + text.count("\n", at, end)
        items.append((len(items) + 1, line, last, value))
        counted = at
        at = _skip_blanks(text, end)
        if text[at : at + 1] == "]":
            return items if not text[at + 1 :].strip() else None
        if text[at : at + 1] != ",":
            return None
        at = _skip_blanks(text, at + 1)
    return None


def _skip_blanks(text: str, at: int) -> int:
    match = _BLANKS.match(text, at)
    return match.end() if match else at


def _csv(text: str, name: str, suffix: str, on_skip: Report) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Records below the header, with the lines they span; without a header, columns are numbered."""
    delimiter = "\t" if suffix == "tsv" else max(",;\t|", key=text[: text.find("\n") + 1 or None].count)
    before = csv.field_size_limit(max(len(text) + 1, csv.field_size_limit()))
    try:
        reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter)
        columns: list[str] = []
        line = 1
        for cells in _records(reader, name, on_skip):
            first, last = line, reader.line_num
            line = last + 1
            if not any(cells):
                continue
            if not columns:
                header = [cell.strip() for cell in cells]
                if all(header) and len(set(header)) == len(header) and not any(map(_is_number, header)):
                    columns = header
                    continue
                columns = [f"column {number}" for number in range(1, len(cells) + 1)]
            names = columns + [f"column {number}" for number in range(len(columns) + 1, len(cells) + 1)]
            yield first, last, {key: _value(cell) for key, cell in zip(names, cells) if cell.strip()}
    finally:
        csv.field_size_limit(before)


def _records(reader: Any, name: str, on_skip: Report) -> Iterator[list[str]]:
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            on_skip(f"{name}#{reader.line_num}", f"malformed row: {error}")


def _is_number(cell: str) -> bool:
    return bool(_INTEGER.match(cell) or _NUMBER.match(cell))


def _value(cell: str) -> str | int | float:
    """A number where the cell is certainly one (no leading zeros: those are codes), so that filters can compare."""
    if _INTEGER.match(cell):
        return int(cell)
    return float(cell) if _NUMBER.match(cell) else cell
