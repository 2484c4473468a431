"""One row of training data, and files of them: JSON lines, a row each, only the fields that say something."""

from __future__ import annotations

import dataclasses
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from inlay.errors import BadInput

__all__ = ["Example", "read", "write"]


@dataclass(slots=True)
class Example:
    """What every later part reads. A text on its own is an example with nothing but a `query`.

    Args:
        query: the anchor.
        pos: texts that answer it.
        neg: texts that do not.
        task: instruction that describes the task, for views that show it.
        label: class of the query (and of its positives).
        neg_labels: class of each negative, for the `same_class` mask.
        score: gold similarity of `query` and `pos[0]`, on any scale, higher is nearer.
        pos_scores: relevance of each positive according to a teacher.
        neg_scores: relevance of each negative according to a teacher, or to what mined it.
        row: row of the query in an array of teacher vectors, where somebody keeps one.
        doc_ids: ids of `pos`, then of `neg`, where they come from a corpus.
        source: name of the source.
        tokens: length of the longest text, if known; `by_length` uses characters where it is 0.
    """

    query: str
    pos: list[str] = field(default_factory=list)
    neg: list[str] = field(default_factory=list)
    task: str | None = None
    label: str | int | None = None
    neg_labels: list[Any] | None = None
    score: float | None = None
    pos_scores: list[float] | None = None
    neg_scores: list[float] | None = None
    row: int | None = None
    doc_ids: list[str] = field(default_factory=list)
    source: str = ""
    tokens: int = 0

    @property
    def texts(self) -> list[str]:
        """Every text of the example: query, positives, negatives."""
        return [self.query, *self.pos, *self.neg]


FIELDS = {f.name for f in dataclasses.fields(Example)}


def _open(path: Path, mode: str) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, mode + "t", encoding="utf-8")  # type: ignore[return-value]
    return open(path, mode, encoding="utf-8")


def write(path: str | Path, examples: Iterable[Example]) -> int:
    """Write examples as JSON lines (gzipped where the name ends in .gz); returns how many."""
    count = 0
    with _open(Path(path), "w") as file:
        for example in examples:
            row = {f.name: getattr(example, f.name) for f in dataclasses.fields(Example)}
            kept = {name: value for name, value in row.items() if value not in (None, [], "", 0) or name == "query"}
            for name in ("label", "score", "row"):  # 0 is a class, a score and a row like any other
                if row[name] is not None:
                    kept[name] = row[name]
            file.write(json.dumps(kept, ensure_ascii=False) + "\n")
            count += 1
    return count


def read(path: str | Path) -> list[Example]:
    """Read what `write` wrote, or any JSON lines with those field names."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no such file of examples: {path}")
    try:
        return list(_read(path))
    except (EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{path} is damaged ({error}); remove it, or write it again") from None


def _read(path: Path) -> Iterator[Example]:
    with _open(path, "r") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise BadInput(f"{path}:{number}: not a line of JSON ({error.msg}): {line[:80]!r}") from None
            if not isinstance(row, dict) or not isinstance(row.get("query"), str):
                raise BadInput(f"{path}:{number}: expected an object with a 'query', got {line[:80]!r}")
            unknown = sorted(set(row) - FIELDS)
            if unknown:
                raise BadInput(f"{path}:{number}: unknown fields {', '.join(unknown)}; known: {sorted(FIELDS)}")
            for name in ("pos", "neg"):
                if not isinstance(row.get(name, []), list):
                    raise BadInput(f"{path}:{number}: {name!r} must be a list of texts, got {row[name]!r}")
            yield Example(**row)
