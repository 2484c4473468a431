"""`inlay import` and `inlay export`: documents in and out as rows of plain files."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from inlay.cli.index import open_place, say
from inlay.cli.places import Place, locate
from inlay.errors import BadInput

if TYPE_CHECKING:
    from inlay.types import Document

__all__ = ["export", "import_", "read_rows"]

FAILURES_SHOWN = 10
KINDS = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": ",", ".tsv": "\t", ".parquet": "parquet"}

Row = Mapping[str, Any] | str  # a row, or in its place the reason why it cannot be read


@click.command("import")
@click.argument("collection", type=click.Path(path_type=Path))
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("--id", "id_field", metavar="FIELD", help="Field that names a document. [id or _id; else file:row]")
@click.option("--text", "text_field", metavar="FIELD", default="text", show_default=True, help="Field with the text.")
@click.option("--encoder", metavar="NAME", help="What makes the dense vectors, for a new collection.")
@click.option("--json", "json_wanted", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def import_(
    ctx: click.Context,
    collection: Path,
    files: tuple[Path, ...],
    id_field: str | None,
    text_field: str,
    encoder: str | None,
    json_wanted: bool,
) -> None:
    """Add the rows of FILE... to COLLECTION, which is made if there is none.

    Files are JSON lines (.jsonl, also .gz, or '-' for standard input), CSV, TSV or Parquet; every field that is neither
    id nor text becomes metadata. Rows that are there already are left as they are, so an interrupted import is
    continued by running it again. Rows that cannot be used are reported, and the exit code is then 1.
    """
    from tqdm import tqdm

    for file in files:
        _kind(file)  # before anything is made
    counts = dict.fromkeys(("added", "updated", "unchanged"), 0)
    failures: list[tuple[str, str]] = []
    with (
        open_place(Place(collection), encoder=encoder) as target,
        tqdm(unit=" rows", disable=not sys.stderr.isatty()) as bar,
    ):
        for file in files:
            # Committed batch by batch, so that an interruption costs the last one and no more.
            report = target.update(_counted(_documents(file, id_field, text_field, failures), bar), on_error="skip")
            for name in counts:
                counts[name] += getattr(report, name)
            failures += [(failure.id, failure.reason) for failure in report.failed]
    if json_wanted:
        from inlay.cli.show import print_json

        print_json(counts | {"failed": [{"id": name, "reason": reason} for name, reason in failures]})
    else:
        for name, reason in failures[:FAILURES_SHOWN]:
            say(f"{name}: {reason}")
        if len(failures) > FAILURES_SHOWN:
            say(f"and {len(failures) - FAILURES_SHOWN} more; --json lists them all")
        parts = [f"{count:,} {name}" for name, count in (counts | {"failed": len(failures)}).items() if count]
        click.echo(", ".join(parts) or "no rows")
    ctx.exit(1 if failures else 0)


@click.command("export")
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    default="-",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="A .jsonl or .jsonl.gz file. [standard output]",
)
@click.option(
    "--vectors",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.npz",
    help="Also write ids and vectors here.",
)
def export(path: Path, output: Path, vectors: Path | None) -> None:
    """Write the documents of PATH as JSON lines: id, text and metadata. 'inlay import' reads them back."""
    from tqdm import tqdm

    place = locate(path)
    with open_place(place, mode="r") as collection:
        count = 0
        with _writer(output) as write:
            for document in tqdm(collection, total=len(collection), unit=" documents", disable=_quiet(output)):
                if place.alone or place.holds(str(document.metadata.get("path", document.id))):
                    write(json.dumps(_row(document), ensure_ascii=False) + "\n")
                    count += 1
        if vectors is not None:
            _write_vectors(collection, vectors)
    if str(output) != "-":
        say(f"{count:,} documents → {output}")


def read_rows(file: Path) -> Iterator[Row]:
    """Rows of a file by its name's ending; a row that cannot be read is a string, the reason."""
    kind = _kind(file)
    if str(file) == "-":
        yield from _json_lines(sys.stdin.buffer)
    elif kind == "parquet":
        yield from _parquet(file)
    else:
        stream: Any
        with gzip.open(file, "rb") if file.name.lower().endswith(".gz") else open(file, "rb") as stream:
            yield from _json_lines(stream) if kind == "json" else _separated(stream, kind)


def _kind(file: Path) -> str:
    """What a file holds: JSON lines, Parquet, or fields parted by the character returned."""
    if str(file) == "-":
        return "json"
    ending = Path(file.name.lower().removesuffix(".gz")).suffix
    if ending not in KINDS:
        raise BadInput(f"{file}: of what kind is it? Files end in .jsonl, .csv, .tsv (or these with .gz), or .parquet")
    return KINDS[ending]


def _counted(rows: Iterable[dict[str, Any]], bar: Any) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row
        bar.update()


def _documents(
    file: Path, id_field: str | None, text_field: str, failures: list[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """Rows as the collection takes them; those that cannot be used go to `failures`."""
    # A row without a name gets one from its place, so that the next run finds it again.
    for number, row in enumerate(_until_damaged(read_rows(file)), 1):
        place = f"{file.name}:{number}"
        if isinstance(row, str):
            failures.append((place, row))
            continue
        fields = dict(row)
        names = [id_field] if id_field else ["id", "_id"]
        name = next((fields.pop(n) for n in names if fields.get(n) not in (None, "")), None)
        if name is None and id_field:
            failures.append((place, f"it has no {id_field!r} (its fields are {', '.join(fields) or 'none'})"))
        elif text_field not in fields:
            failures.append((place, f"it has no {text_field!r} (its fields are {', '.join(fields) or 'none'})"))
        else:
            text = fields.pop(text_field)
            yield {**fields, "id": str(name) if isinstance(name, int | float) else name or place, "text": text}


def _until_damaged(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows up to where a compressed file breaks off, which is then the last failure, not the end of the import."""
    try:
        yield from rows
    except (EOFError, gzip.BadGzipFile) as error:
        yield f"the file is damaged from here on: {error}"


def _json_lines(stream: IO[bytes]) -> Iterator[Row]:
    for line in stream:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            yield f"not valid JSON: {error}"
            continue
        yield row if isinstance(row, dict) else f"not a JSON object: {line[:40].decode(errors='replace')!r}"


def _separated(stream: IO[bytes], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)
    text = (line.decode("utf-8-sig" if i == 0 else "utf-8", errors="replace") for i, line in enumerate(stream))
    reader = csv.DictReader(text, delimiter=delimiter, restkey="", strict=False)
    for row in reader:
        if "" in row:
            yield f"it has more fields than the header's {len(reader.fieldnames or ())}"
        else:
            yield {name: _cell(value) for name, value in row.items() if value not in (None, "")}


def _cell(value: str) -> str | int | float:
    """A cell as a number where it reads back as the same characters ("2020", "0.5"), so that filters can compare it."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            number: int | float = kind(value)
            if str(number) == value and math.isfinite(number):
                return number
    return value


def _parquet(file: Path) -> Iterator[Row]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise BadInput(f"{file}: Parquet files need pyarrow. Install it with: pip install pyarrow") from None
    with ParquetFile(file) as table:
        for batch in table.iter_batches(1_000):
            yield from batch.to_pylist()


def _row(document: Document) -> dict[str, Any]:
    rest = {name: value for name, value in document.metadata.items() if name not in ("id", "text")}
    return {"id": document.id, "text": document.text, **rest}


@contextlib.contextmanager
def _writer(output: Path) -> Iterator[Callable[[str], Any]]:
    """A function that writes text to a file, compressed if its name says so; the file appears when it is whole."""
    if str(output) == "-":
        yield lambda text: click.echo(text, nl=False)
        return
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        if output.suffix == ".gz":
            with gzip.open(partial, "wt", encoding="utf-8", compresslevel=6) as file:
                yield file.write
        else:
            with open(partial, "w", encoding="utf-8") as file:
                yield file.write
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)


def _quiet(output: Path) -> bool:
    return not sys.stderr.isatty() or str(output) == "-"


def _write_vectors(collection: Any, output: Path) -> None:
    import numpy as np

    if not hasattr(collection, "vectors"):
        raise BadInput("this collection cannot give its vectors; leave --vectors out")
    ids, rows = collection.vectors()
    np.savez(output, ids=np.asarray(ids), vectors=rows)
    say(f"{len(ids):,} rows → {output}")
