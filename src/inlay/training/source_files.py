"""Sources from files, as recipes name them: tables of pairs, JSON lines with titles, folders of text."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Literal

from inlay.errors import BadInput
from inlay.training import sources
from inlay.training.sources import Source

__all__ = ["BUILDERS"]


def _open(path: Path) -> IO[str]:
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return open(path, encoding="utf-8", errors="replace")


def _table(path: str | Path, columns: Iterable[str | int]) -> Iterator[list[str]]:
    """Cells of a tab-separated table, by the names of its header line or by number, from 0 and without a header."""
    path = Path(path)
    with _open(path) as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        wanted = list(columns)
        if any(isinstance(column, str) for column in wanted):
            header = next(lines, [])
            missing = [column for column in wanted if column not in header]
            if missing:
                raise BadInput(f"{path} has no column {missing[0]!r}; it has {', '.join(header)}")
            numbers = [header.index(str(column)) for column in wanted]
        else:
            numbers = [int(column) for column in wanted]
        for number, line in enumerate(lines, 1):
            if len(line) <= max(numbers):
                raise BadInput(f"{path}: row {number} has {len(line)} cells, column {max(numbers)} was asked for")
            yield [line[n] for n in numbers]


def pairs(path: str | Path, *, columns: list[str | int], name: str = "pairs") -> Source:
    """Two columns of a table: texts that say the same, or a query and its answer."""
    return sources.parallel(((a, b) for a, b in _table(path, columns)), name=name)


def graded(path: str | Path, *, columns: list[str | int], symmetric: bool = True, name: str = "graded") -> Source:
    """Three columns of a table: two texts and their gold similarity."""
    return sources.graded(((a, b, float(c)) for a, b, c in _table(path, columns)), symmetric=symmetric, name=name)


def titles(path: str | Path, *, title: str = "title", text: str = "text", name: str = "titles") -> Source:
    """JSON lines with a title and a text."""
    with _open(Path(path)) as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return sources.title_body(({"title": row.get(title), "text": row.get(text)} for row in rows), name=name)


def neighbours(
    paths: str | Path | list[str | Path], *, unit: Literal["sentence", "paragraph"] = "paragraph", least: int = 20,
    name: str = "neighbours",
) -> Source:  # fmt: skip
    """Neighbouring units of text files."""
    documents = sources.text_files(paths, unit="document")
    # The parts of a file are not documents, so that a pair never spans two files.
    return sources.neighbours([example.query for example in documents], unit=unit, least=least, name=name)


BUILDERS: dict[str, Callable[..., Source]] = {
    "rows": sources.rows,
    "text_files": sources.text_files,
    "docstring_code": sources.docstring_code,
    "pairs": pairs,
    "graded": graded,
    "titles": titles,
    "neighbours": neighbours,
}
