"""`inlay ls`, `inlay info`, `inlay rm`: what is indexed, what an index holds, and the end of one."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from inlay.cli.index import open_place, say
from inlay.cli.places import CATALOG, Place, indexes, is_collection, locate
from inlay.errors import BadInput, InlayError

__all__ = ["info", "is_remnant", "ls", "remove", "rm"]

# All that a collection ever writes into its folder; anything else there is someone's and stays.
OURS = (CATALOG, f"{CATALOG}-wal", f"{CATALOG}-shm", "segments", "writer.json", "writer.lock")
REMOVED = f"{CATALOG}.removed"


@click.command("ls")
@click.option("--json", "json_wanted", is_flag=True, help="Print the list as JSON.")
def ls(json_wanted: bool) -> None:
    """List the folders that are indexed, those that were searched or given to 'inlay index'."""
    from inlay.cli.show import print_json, printable, size

    rows = [_describe(path) for path in indexes()]
    if json_wanted:
        print_json(rows)
        return
    if not rows:
        say("nothing is indexed yet. To index a folder, search it: inlay search QUERY FOLDER")
        return
    shown = [("FOLDER", "DOCUMENTS", "SIZE", "LAST CHANGE", "")]
    for row in rows:
        count = "–" if row["documents"] is None else f"{row['documents']:,}"
        when = (row["indexed"] or "–")[:16].replace("T", " ")
        shown.append((printable(row["folder"] or row["collection"]), count, size(row["bytes"]), when, row["note"]))
    widths = [max(len(row[column]) for row in shown) for column in range(5)]
    for folder, count, nbytes, when, note in shown:
        line = f"{folder:<{widths[0]}}  {count:>{widths[1]}}  {nbytes:>{widths[2]}}  {when:<{widths[3]}}  {note}"
        click.echo(line.rstrip())


@click.command("info")
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option("--json", "json_wanted", is_flag=True, help="Print it as JSON.")
def info(path: Path, json_wanted: bool) -> None:
    """Show what the index of PATH holds, how large it is and what made its vectors."""
    from inlay.cli.show import print_json

    place = locate(path)
    with open_place(place, mode="r") as collection:
        about: dict[str, Any] = dict(collection.info())
        about |= about.pop("settings")
    if "indexed_at" in about:
        about["indexed_at"] = _moment(about["indexed_at"])
    if json_wanted:
        print_json(about)
        return
    for line in _lines(about):
        click.echo(line)


@click.command("rm")
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def rm(ctx: click.Context, path: Path, yes: bool) -> None:
    """Remove the index of PATH. The files it was made from stay; a collection given by name loses its documents."""
    place = locate(path, own=True)
    if not place.exists:
        round_it = locate(path)
        hint = f"; it is covered by the index of {round_it.folder}" if round_it.exists else ""
        raise BadInput(f"{path} has no index of its own{hint}. To see all: inlay ls")
    about = _describe(place.collection)
    what = f"the index of {place}" if place.folder else f"the collection {place.collection} with its documents"
    if about["documents"] is not None:
        what += f" ({about['documents']:,} documents)"
    if not yes and not _agreed(f"Remove {what}?"):
        say("nothing was removed; to remove it without being asked, pass --yes")
        ctx.exit(1)
    left = remove(place.collection)
    click.echo(f"removed {what}")
    if left:
        say(f"{place.collection} stays, for it holds other files: {', '.join(left[:5])}")


def _agreed(question: str) -> bool:
    """The answer at the terminal; where there is nobody to ask, no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        return False


def remove(collection: Path) -> list[str]:
    """Remove a collection from disk.

    Returns:
        Names of files in its folder that are not inlay's, and so were left where they are.

    Raises:
        Locked: another process is writing to it.
    """
    with _writing(collection), contextlib.suppress(FileNotFoundError):
        # The catalog goes at one stroke, and with it the collection: a removal that is interrupted leaves no half.
        os.rename(collection / CATALOG, collection / REMOVED)
    for name in (REMOVED, *OURS):
        path = collection / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    left = sorted(entry.name for entry in collection.iterdir())
    if not left:
        collection.rmdir()
    return left


def is_remnant(collection: Path) -> bool:
    """Whether a folder is what an interrupted removal or a lost catalog has left of a collection.

    One that another process has just begun to make is none: it has no segments before it has its catalog.
    """
    return not is_collection(collection) and any((collection / name).exists() for name in (REMOVED, "segments"))


@contextlib.contextmanager
def _writing(collection: Path) -> Iterator[None]:
    from inlay.collection.lock import WriterLock

    lock = WriterLock(collection)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _describe(path: Path) -> dict[str, Any]:
    """A row of the list; an index that cannot be opened is listed with the reason."""
    row: dict[str, Any] = {
        "folder": None,
        "documents": None,
        "bytes": sum(_bytes(file) for file in path.rglob("*")),
        "indexed": None,
        "collection": str(path),
        "note": "",
    }
    try:
        with open_place(Place(path), mode="r") as collection:
            row["folder"] = collection.settings.get("folder")
            row["indexed"] = _moment(collection.settings.get("indexed_at"))
            row["documents"] = len(collection)
    except (InlayError, OSError) as error:
        row["note"] = f"cannot be opened: {error}"
        return row
    if row["folder"] is not None and not os.path.exists(row["folder"]):
        row["note"] = "the folder is gone; inlay rm removes this index"
    elif row["folder"] is not None and row["indexed"] is None:
        row["note"] = "unfinished; the next search goes on with it"
    return row


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:  # merged away by another process since it was listed
        return 0


def _moment(seconds: float | None) -> str | None:
    """A time stamp as local time, to the second."""
    return None if seconds is None else datetime.datetime.fromtimestamp(seconds).isoformat(timespec="seconds")


def _lines(about: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Nested settings, a line each, names in a column."""
    from inlay.cli.show import printable, size

    wide = max((len(str(name)) for name in about), default=0)
    for name, value in about.items():
        label = f"{indent}{str(name).replace('_', ' '):<{wide}}  "
        if isinstance(value, Mapping) and value:
            yield label.rstrip()
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            for item in value:
                yield label.rstrip()
                yield from _lines(item, indent + "  ")
        elif name in ("bytes", "nbytes", "size") and isinstance(value, int | float):
            yield label + size(value)
        elif isinstance(value, list | tuple):
            yield label + (", ".join(printable(str(item)) for item in value) or "–")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{label}{value:,}"
        else:
            yield label + ("–" if value in (None, {}, "") else printable(str(value)))
