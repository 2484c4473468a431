"""Labelled texts from files: fastText's `__label__x text`, JSON lines, or a table with a header; `.gz` of each."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from inlay.errors import BadInput

__all__ = ["read_labelled"]

PREFIX = "__label__"


def read_labelled(
    path: str | Path, *, text: Sequence[str] = ("text",), label: str = "label"
) -> tuple[list[str], list[str]]:
    """Texts and labels of a file.

    Args:
        path: `.jsonl`/`.ndjson`, `.tsv` or `.csv` with a header, or lines `__label__x text`; each may end in `.gz`.
        text: columns or keys that make the text, joined by spaces.
        label: column or key of the label.

    Raises:
        BadInput: a line cannot be read, by its number; or the file has no lines.
    """
    path = Path(path)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    try:
        with _open(path) as file:
            if kind in (".jsonl", ".ndjson"):
                rows = _of_json(file, path, text, label)
            elif kind in (".tsv", ".csv"):
                rows = _of_table(file, path, "\t" if kind == ".tsv" else ",", text, label)
            else:
                rows = _of_lines(file, path)
    except FileNotFoundError:
        raise BadInput(f"there is no file {path}") from None
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read ({error}); it must be UTF-8 text, or that compressed by gzip") from None
    if not rows:
        raise BadInput(f"{path} holds no labelled texts")
    return [row[0] for row in rows], [row[1] for row in rows]


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return open(path, encoding="utf-8", newline="")


def _of_lines(file: IO[str], path: Path) -> list[tuple[str, str]]:
    rows = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        first, _, rest = line.strip().partition(" ")
        if not first.startswith(PREFIX) or first == PREFIX:
            raise BadInput(
                f"{path}, line {number}: expected '{PREFIX}name text', got {line.strip()[:40]!r}; "
                "other files are .jsonl, .tsv or .csv"
            )
        rows.append((rest, first.removeprefix(PREFIX)))
    return rows


def _of_json(file: IO[str], path: Path, text: Sequence[str], label: str) -> list[tuple[str, str]]:
    rows = []
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            rows.append((" ".join(str(values[key]) for key in text), str(values[label])))
        except (ValueError, TypeError) as error:
            raise BadInput(f"{path}, line {number} is no JSON object: {error}") from None
        except KeyError as error:
            raise BadInput(f"{path}, line {number} has no {error}; name the keys with --text and --label") from None
    return rows


def _of_table(file: IO[str], path: Path, delimiter: str, text: Sequence[str], label: str) -> list[tuple[str, str]]:
    # In tab-separated files a quotation mark is a character like any other.
    quoted = delimiter != "\t"
    table = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
    header = next(table, [])
    if missing := [name for name in (*text, label) if name not in header]:
        raise BadInput(
            f"{path} has no column {missing[0]!r} but {', '.join(header) or 'no header'}; "
            "name the columns with --text and --label"
        )
    texts_at, label_at = [header.index(name) for name in text], header.index(label)
    rows = []
    for values in table:
        if not values:
            continue
        if len(values) != len(header):
            raise BadInput(f"{path}, line {table.line_num}: {len(values)} values under {len(header)} columns")
        rows.append((" ".join(values[at] for at in texts_at), values[label_at]))
    return rows
