"""`inlay dedup`: records of a table that are likely the same thing, with a score and why."""

from __future__ import annotations

import csv
import gzip
import io
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import click

from inlay.errors import BadInput

if TYPE_CHECKING:
    from inlay.records import Candidates
    from inlay.records.explanation import Explainer

__all__ = ["command"]

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
# Default thresholds. Within a table, siblings (the next model, the next volume) are near each other and mostly no
# duplicates; between two tables the same thing is in other words. What labels taught stands between R and cR.
WITHIN, BETWEEN, LEARNT = 0.7, 0.4, 0.4
SHOWN = 100  # characters of a record


class Table(NamedTuple):
    """A file of records.

    Args:
        path: of the file.
        records: those that could be read.
        rows: number of each in the file, counted from 1.
        failures: (row, why) of those that could not be read.
    """

    path: Path
    records: list[dict[str, Any]]
    rows: list[int]
    failures: list[tuple[int, str]]


@click.command("dedup")
@click.argument("file", type=FILE)
@click.option("--other", type=FILE, metavar="FILE2", help="Look for records of FILE in this table, not in FILE itself.")
@click.option("--by", metavar="COLUMNS", help="Columns that are compared, with commas between. [all but --id]")
@click.option(
    "--id", "id_column", metavar="COLUMN", help="Column that names a record. [id or _id; else row numbers, from 1]"
)
@click.option("-k", default=5, show_default=True, type=click.IntRange(min=1), help="Records each one is compared with.")
@click.option(
    "--threshold", type=click.FloatRange(0, 1), help="Lowest score of a duplicate. [0.7; with --other or --labels 0.4]"
)
@click.option("--labels", type=FILE, metavar="PAIRS", help="Learn from labelled pairs: a table left,right[,label].")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write FILE without duplicates here.")
@click.option("--json", "json_wanted", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    ctx: click.Context, file: Path, other: Path | None, by: str | None, id_column: str | None, k: int,
    threshold: float | None, labels: Path | None, output: Path | None, json_wanted: bool,
) -> None:  # fmt: skip
    """Find records of FILE that are likely the same thing.

    Files are CSV, TSV, JSON lines (each also .gz) or Parquet. Each record is compared with the -k nearest to it by the
    character n-grams and words they share, rare ones counting more (a cosine, from 0 to 1). Pairs that score at least
    --threshold are accepted, and what they link is a group. Nothing is learnt, unless --labels gives pairs that are
    duplicates (label 1, or no such column) or are not (label 0), by row numbers or by --id: then a hash is learnt from
    them, and a pair scores by the cosine of its hashes.

    --output keeps one record of each group, the one with most values; with --other, those records that it lacks.
    The exit code is 1 where there are no duplicates.

    \b
      inlay dedup customers.csv --by name,address,phone
      inlay dedup new.csv --other catalogue.csv --output really_new.csv
      inlay dedup products.csv --labels pairs.csv --json
    """  # noqa: D301 - click reads the backspace
    from inlay.cli.show import print_json
    from inlay.records.clustering import clusters
    from inlay.records.explanation import Explainer

    first, second = _read(file), None if other is None else _read(other)
    _check_output(output, first)
    id_column = id_column or _id_column([first, *([second] if second else [])])
    columns = _columns([first, *([second] if second else [])], by, id_column)
    found = _pairs(first, second, columns, labels, id_column, k)
    least = LEARNT if labels else WITHIN if second is None else BETWEEN
    least = least if threshold is None else threshold
    pairs = found.at_least(least)
    shift = 0 if second is None else len(first.records)
    links = [(a, b + shift, score) for a, b, score in pairs]
    every = [*first.records, *(second.records if second else [])]
    groups = clusters(len(every), ((a, b) for a, b, _ in links))
    explain = Explainer(every, columns)
    made = _described(groups, links, [first, *([second] if second else [])], explain, id_column)
    dropped = _dropped(groups, first, within=second is None)
    if output is not None:
        _write(first, dropped, output)
    if json_wanted:
        print_json({
            "records": len(every), "compared": len(found), "threshold": least, "ranked_by": _ranked(bool(labels)),
            "pairs": len(pairs), "groups": made, "dropped": [first.rows[i] for i in sorted(dropped)],
            "failed": [{"file": str(t.path), "row": row, "reason": why} for t in (first, second) if t
                       for row, why in t.failures],
        })  # fmt: skip
    else:
        _show(made, columns)
        _say_failures([t for t in (first, second) if t])
        said = f"{len(every):,} records, {len(found):,} pairs compared by {_ranked(bool(labels))}: "
        said += f"{len(pairs):,} at {least:g} or above, in {len(made):,} group{'' if len(made) == 1 else 's'}"
        click.echo(said + (f"; {len(first.records) - len(dropped):,} records → {output}" if output else ""), err=True)
    ctx.exit(0 if made else 1)


def _ranked(learnt: bool) -> str:
    return "learnt hashes" if learnt else "the rare n-grams and words they share"


def _read(path: Path) -> Table:
    from inlay.cli.transfer import read_rows

    table = Table(path, [], [], [])
    try:
        for number, row in enumerate(read_rows(path), 1):
            if isinstance(row, str):
                table.failures.append((number, row))
            else:
                table.records.append(dict(row))
                table.rows.append(number)
    except (EOFError, gzip.BadGzipFile, csv.Error) as error:
        raise BadInput(f"{path} is damaged or cut short ({error}); nothing was compared") from None
    if not table.records:
        raise BadInput(f"{path} holds no records that can be read; it needs a header and rows, or JSON objects")
    return table


def _id_column(tables: list[Table]) -> str | None:
    """`id` or `_id`, where every record has one of its own."""
    for name in ("id", "_id"):
        values = [[str(record.get(name, "")) for record in table.records] for table in tables]
        if all(len(set(own)) == len(own) and "" not in own for own in values):
            return name
    return None


def _columns(tables: list[Table], by: str | None, id_column: str | None) -> list[str]:
    from inlay.records.serialisation import columns_of

    there = columns_of([record for table in tables for record in table.records])
    wanted = [name.strip() for name in by.split(",")] if by else [name for name in there if name != id_column]
    for name in [*wanted, *([id_column] if id_column else [])]:
        if name not in there:
            raise BadInput(f"there is no column {name!r} in {tables[0].path}; there are {', '.join(there)}")
    if not wanted:
        raise BadInput(f"{tables[0].path} has no column but {id_column!r}; name what to compare with --by")
    return list(dict.fromkeys(wanted))


def _pairs(
    first: Table, second: Table | None, columns: list[str], labels: Path | None, id_column: str | None, k: int
) -> Candidates:
    from inlay.records import Candidates, RecordGrams, block

    bar = sys.stderr.isatty()
    others = None if second is None else second.records
    if labels is None:
        return block(RecordGrams(columns=columns), first.records, others, k, progress=bar)
    from inlay.records import NeuralLSH

    matches, non_matches = _labelled(labels, first, second, id_column)
    hash_of = NeuralLSH(RecordGrams(columns=columns))
    hash_of.fit(first.records, matches, other=others, non_matches=non_matches, progress=bar)
    found = block(hash_of, first.records, others, k, progress=bar)
    # The score of unit vectors at distance d: their cosine, 1 − d² / 2. Scores of `l2` are −d².
    return Candidates(found.left, found.right, (1 + found.scores / 2).clip(0, 1))


def _labelled(
    path: Path, first: Table, second: Table | None, id_column: str | None
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Matches and non-matches of a file, as positions in the lists of records."""
    pairs = _read(path)
    if pairs.failures:
        raise BadInput(f"{path}, row {pairs.failures[0][0]}: {pairs.failures[0][1]}")
    names = [_names(table, id_column) for table in (first, second or first)]
    out: tuple[list[tuple[int, int]], list[tuple[int, int]]] = [], []
    for number, row in zip(pairs.rows, pairs.records):
        at = []
        for side, known in zip(("left", "right"), names):
            if side not in row:
                raise BadInput(f"{path}, row {number} has no {side!r}; its columns are left, right and perhaps label")
            if str(row[side]) not in known:
                what = f"{id_column!r}" if id_column else "row number"
                raise BadInput(f"{path}, row {number}: no record has the {what} {str(row[side])!r}")
            at.append(known[str(row[side])])
        label = str(row.get("label", 1)).lower()
        if label not in ("1", "0", "true", "false", "1.0", "0.0"):
            raise BadInput(f"{path}, row {number}: a label is 1 or 0, got {row['label']!r}")
        out[label in ("0", "false", "0.0")].append((at[0], at[1]))
    return out


def _names(table: Table, id_column: str | None) -> dict[str, int]:
    names: dict[str, int] = {}
    for at, (row, record) in enumerate(zip(table.rows, table.records)):
        name = str(record.get(id_column, "") if id_column else row)
        if name in names:
            raise BadInput(
                f"{table.path}, row {row}: {id_column!r} is {name!r} there and in row {table.rows[names[name]]}"
            )
        names[name] = at
    return names


def _described(
    groups: list[list[int]], links: list[tuple[int, int, float]], tables: list[Table], explain: Explainer,
    id_column: str | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Groups as plain values: their records, and the pairs that link them, best first; the surest group first."""
    places = [(table, at) for table in tables for at in range(len(table.records))]
    group_of = {row: number for number, group in enumerate(groups) for row in group}
    own: list[list[dict[str, Any]]] = [[] for _ in groups]

    def name(row: int) -> Any:
        table, at = places[row]
        return table.records[at].get(id_column) if id_column else table.rows[at]

    for a, b, score in links:
        reason = explain(places[a][0].records[places[a][1]], places[b][0].records[places[b][1]])
        pair = {"left": name(a), "right": name(b), "score": round(score, 4), **reason._asdict()}
        own[group_of[a]].append(pair)
    made = []
    for group, pairs in zip(groups, own):
        records = [
            {"file": str(places[row][0].path), "row": places[row][0].rows[places[row][1]], "name": name(row),
             "record": places[row][0].records[places[row][1]]}
            for row in group
        ]  # fmt: skip
        made.append({"score": min(pair["score"] for pair in pairs), "records": records, "pairs": pairs})
    return sorted(made, key=lambda one: -one["score"])


def _show(groups: list[dict[str, Any]], columns: list[str]) -> None:
    from inlay.cli.show import printable
    from inlay.records.serialisation import value_of

    several = len({record["file"] for group in groups for record in group["records"]}) > 1
    for number, group in enumerate(groups, 1):
        click.echo(f"{'' if number == 1 else chr(10)}group {number}  {group['score']:.3f}")
        for one in group["records"]:
            text = " | ".join(value for name in columns if (value := value_of(one["record"], name)))
            place = f"{one['file']}:{one['name']}" if several else str(one["name"])
            click.echo(f"  {printable(place)}  {printable(text if len(text) <= SHOWN else text[: SHOWN - 1] + '…')}")
        for pair in group["pairs"]:
            why = [f"same {', '.join(pair['same'])}"] if pair["same"] else []
            why += [f"both have {', '.join(pair['shared'])}"] if pair["shared"] else []
            why += [f"{', '.join(pair['differs'])} differ{'' if len(pair['differs']) > 1 else 's'}"] * bool(
                pair["differs"]
            )
            ends = f"{pair['left']} ~ {pair['right']}"
            click.echo(f"    {pair['score']:.3f}  {printable(ends)}: {printable('; '.join(why))}")


def _say_failures(tables: list[Table]) -> None:
    for table in tables:
        for row, why in table.failures[:10]:
            click.echo(f"inlay: {table.path}, row {row} left out: {why}", err=True)
        if len(table.failures) > 10:
            click.echo(f"inlay: and {len(table.failures) - 10} more; --json lists them all", err=True)


def _dropped(groups: list[list[int]], first: Table, *, within: bool) -> set[int]:
    """Records of the first table that are not kept."""
    out: set[int] = set()
    for group in groups:
        ours = [row for row in group if row < len(first.records)]
        if within:
            fullest = max(ours, key=lambda row: (len([v for v in first.records[row].values() if v is not None]), -row))
            ours.remove(fullest)
        out.update(ours)
    return out


def _check_output(output: Path | None, table: Table) -> None:
    """Rows are copied as they are, so the copy is of the same kind, and none may be lost that could not be read."""
    if output is None:
        return
    kind, given = (Path(path.name.lower().removesuffix(".gz")).suffix for path in (table.path, output))
    kinds = [".jsonl", ".ndjson", ".json"] if kind in (".jsonl", ".ndjson", ".json") else [kind]
    if given not in kinds:
        raise BadInput(f"--output {output} would hold rows of {table.path.name}, so its name must end in {kind} too")
    if kind == ".parquet":
        raise BadInput("--output copies rows of text files; take the rows to leave out from --json instead")
    if table.failures:
        row, why = table.failures[0]
        raise BadInput(f"{table.path}, row {row} cannot be read ({why}), and --output would lose it; mend it first")


def _write(table: Table, dropped: set[int], output: Path) -> None:
    """Copy the rows of a file that stay, character by character."""
    from inlay.io import atomic_write

    leave = {table.rows[at] for at in dropped}
    stream: Any
    with gzip.open(table.path, "rb") if table.path.name.lower().endswith(".gz") else open(table.path, "rb") as stream:
        text = stream.read().decode("utf-8-sig", errors="surrogateescape")
    kept = io.StringIO(newline="")
    kind = Path(table.path.name.lower().removesuffix(".gz")).suffix
    if kind in (".csv", ".tsv"):
        _copy_table(io.StringIO(text, newline=""), kept, "," if kind == ".csv" else "\t", leave)
    else:
        number = 0
        for line in io.StringIO(text, newline="\n"):
            number += bool(line.strip())
            if not line.strip() or number not in leave:
                kept.write(line)
    data = kept.getvalue().encode(errors="surrogateescape")
    atomic_write(output, gzip.compress(data) if output.name.lower().endswith(".gz") else data)


def _copy_table(text: IO[str], kept: IO[str], delimiter: str, leave: set[int]) -> None:
    lines: list[str] = []

    def recorded() -> Any:
        for line in text:
            lines.append(line)
            yield line

    number = -1  # the header is row 0
    for cells in csv.reader(recorded(), delimiter=delimiter):
        number += bool(cells)
        if not cells or number not in leave:
            kept.writelines(lines)
        lines.clear()
