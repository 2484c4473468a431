"""`inlay index`: make the index of a folder, or bring it up to date; search does the same before it answers."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from inlay.cli.places import Place, is_collection, locate, mirror_of
from inlay.errors import BadInput, InlayError, ModelChanged, SpaceMismatch

if TYPE_CHECKING:
    from inlay.collection import Collection
    from inlay.collection.folder import SyncReport

__all__ = ["command", "mirror", "open_place", "say", "with_present_model"]

T = TypeVar("T")
SKIPPED_SHOWN = 5


@click.command("index")
@click.argument("path", default=".", type=click.Path(exists=True, path_type=Path))
@click.option("--encoder", metavar="NAME", help="What makes the dense vectors; kept for later.")
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Keep the index here.")
@click.option("--embed", is_flag=True, help="Also make now the vectors that would be made on demand.")
@click.option("--leann", is_flag=True, help="Keep a graph in place of vectors: a few per cent of the text's bytes.")
@click.option("--rebuild", is_flag=True, help="Start again from the files.")
@click.option("--include", metavar="GLOB", multiple=True, help="Only files like this; kept for later. Repeatable.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="No files like this; kept for later. Repeatable.")
@click.option("--hidden/--no-hidden", default=None, help="Also files whose names begin with a dot; kept for later.")
@click.option("--json", "json_wanted", is_flag=True, help="Print the report as JSON.")
def command(
    path: Path,
    encoder: Any,
    output: Path | None,
    embed: bool,
    leann: bool,
    rebuild: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    hidden: bool | None,
    json_wanted: bool,
) -> None:
    """Index the folder PATH, or bring its index up to date.

    Only files that changed since the last time are read. Files that .gitignore names are left out. The work may be
    interrupted at any point, and goes on from there the next time.
    """
    place = _place(path, output)
    covers: dict[str, Any] = {"include": list(include) or None, "exclude": list(exclude) or None, "hidden": hidden}
    if rebuild and place.exists:
        encoder, covers = _start_again(place, encoder, covers)

    def made() -> tuple[SyncReport, Any, int, int]:
        with open_place(place, encoder=encoder) as collection:
            collection.check_model()  # where no file has changed, nothing else would ask for it
            report = mirror(collection, place, **covers)
            thinned = collection.thin(progress=sys.stderr.isatty()) if leann else None
            embedded = collection.embed(progress=sys.stderr.isatty()) if embed else 0
            return report, thinned, embedded, collection.info()["spaces"].get("dense", {}).get("pending", 0)

    report, thinned, embedded, owed = with_present_model(place, made)
    if json_wanted:
        from inlay.cli.show import print_json

        more = {"embedded": embedded, "collection": str(place.collection)} | ({"dense": thinned} if thinned else {})
        print_json(dataclasses.asdict(report) | more)
        return
    for name, reason in report.skipped[:SKIPPED_SHOWN]:
        say(f"skipped {name}: {reason}")
    if len(report.skipped) > SKIPPED_SHOWN:
        say(f"skipped {len(report.skipped) - SKIPPED_SHOWN} more; inlay index --json lists them")
    click.echo(summary(report) + (f", {embedded} vectors made" if embedded else ""))
    if thinned:
        say(f"the graph takes {thinned['after'] / 1e6:.2f} MB; vectors are made again as searches need them")
    if owed:
        say(f"{owed} passages are found by words first, and by meaning as searches come upon them. "
            f"All of them now: inlay index --embed {place}")  # fmt: skip


def open_place(place: Place, *, encoder: Any = None, mode: Literal["a", "r"] = "a") -> Collection:
    """Open the collection of a place; with mode "a" make it if there is none."""
    import inlay

    if mode == "r" and not place.exists:
        raise BadInput(f"{place} is not indexed yet; run: inlay index {place}")
    place.collection.parent.mkdir(parents=True, exist_ok=True)
    if place.cached and not place.exists:
        from inlay.cli.manage import is_remnant, remove

        if is_remnant(place.collection):
            remove(place.collection)
    try:
        return inlay.open(place.collection, encoder=encoder, mode=mode)
    except SpaceMismatch as error:
        if encoder is None or place.folder is None:
            raise
        raise SpaceMismatch(
            f"the index of {place} has vectors of another encoder than {encoder!r}, and they cannot be compared. "
            f"To use it instead: inlay index --rebuild --encoder {encoder!r} {place}"
        ) from error


def with_present_model(place: Place, work: Callable[[], T]) -> T:
    """Do some work on the index of a folder; where the model that comes with inlay is another one by now, make the
    index again first. A collection that was put elsewhere is left as it is, and the error says what to do.
    """
    try:
        return work()
    except ModelChanged:
        if not place.cached or place.folder is None:
            raise
        say(f"the model is another one since {place} was indexed: it is indexed again")
        encoder, covers = _start_again(place, None, dict.fromkeys(("include", "exclude", "hidden")))
        with open_place(place, encoder=encoder) as collection:
            _remember(collection, place, covers)
        return work()


def mirror(
    collection: Collection,
    place: Place,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    hidden: bool | None = None,
) -> SyncReport:
    """Bring a collection up to date with its folder.

    Args:
        collection: open for writing.
        place: where it lives and which folder it mirrors.
        include: patterns of the files it covers; None for those given last.
        exclude: patterns of the files it leaves out; None for those given last.
        hidden: whether it covers hidden files; None for what was given last.
    """
    from inlay.collection.folder import sync

    assert place.source is not None
    # Before the work, so that an index whose making was interrupted is listed, and goes on as it began.
    covers = _remember(collection, place, {"include": include, "exclude": exclude, "hidden": hidden})
    return sync(
        collection,
        place.source,
        progress=sys.stderr.isatty(),
        include=covers.get("include", ()),
        exclude=[*covers.get("exclude", ()), *_itself(place)],
        hidden=covers.get("hidden", False),
    )


def _remember(collection: Collection, place: Place, given: dict[str, Any]) -> dict[str, Any]:
    """Write down which folder a collection mirrors and what of it, and return the latter; None is as it was before."""
    remembered = collection.settings.get("covers") or {}
    covers = remembered | {name: value for name, value in given.items() if value is not None}
    for name, value in {"folder": os.fspath(place.source or ""), "covers": covers or None}.items():
        if collection.settings.get(name) != value:
            collection.settings[name] = value
    return covers


def summary(report: SyncReport) -> str:
    """A report in one line."""
    changes = [
        f"{count} {what}"
        for count, what in ((report.added, "new"), (report.updated, "changed"), (report.removed, "removed"))
        if count
    ]
    files = f"{report.files} file{'' if report.files == 1 else 's'}"
    return f"{files} ({', '.join(changes) or 'nothing new'}) in {report.seconds:.1f} s"


def say(message: str) -> None:
    """Tell the person something that is no part of the output."""
    click.echo(f"inlay: {message}", err=True)


def _place(path: Path, output: Path | None) -> Place:
    place = locate(path, own=True)
    if place.folder is None:
        if output is not None:
            raise BadInput(f"{path} is a collection already; --output is where the index of a folder goes")
        with open_place(place, mode="r") as collection:
            folder = collection.settings.get("folder")
        if folder is None:
            raise BadInput(f"{path} was not made from a folder. To add documents: inlay import {path} FILE")
        if not os.path.exists(folder):
            raise BadInput(f"{path} was made from {folder}, which is not there any more")
        return mirror_of(path, Path(folder))
    if output is None:
        return place
    if output.exists() and not is_collection(output) and any(output.iterdir()):
        raise BadInput(f"{output} holds other files; give a folder that is new or empty, such as notes.inlay")
    if is_collection(output):
        with open_place(Place(output), mode="r") as collection:
            folder = collection.settings.get("folder")
        if folder != str(place.source):
            raise BadInput(f"{output} holds {folder or 'documents of its own'}, not {place.source}; give another")
    return mirror_of(output, path)


def _start_again(place: Place, encoder: Any, covers: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Remove an index, and return what it was made with where nothing else was asked for."""
    from inlay.cli.manage import remove

    try:
        with open_place(place, mode="r") as collection:
            remembered = collection.settings.get("covers") or {}
            made_by = collection.info()["spaces"].get("dense", {}).get("encoder")
        import inlay

        encoder = encoder or (inlay.encoder(**made_by) if made_by else None)
    except InlayError as error:
        say(f"its settings cannot be read, the usual ones are taken ({error})")
        remembered = {}
    remove(place.collection)
    return encoder, {name: remembered.get(name) if value is None else value for name, value in covers.items()}


def _itself(place: Place) -> list[str]:
    """The pattern that leaves the index out of the index, where it is kept inside its folder."""
    assert place.folder is not None
    inside = os.path.relpath(os.path.realpath(place.collection), place.folder)
    return [] if inside.startswith(os.pardir) else ["/" + re.sub(r"([\[\]*?!#\\ ])", r"\\\1", inside) + "/"]
