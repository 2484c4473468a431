"""`inlay search`: answers by meaning from a folder or a collection."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from inlay.cli.places import Place, locate
from inlay.errors import BadInput, Locked

if TYPE_CHECKING:
    from inlay.collection import Collection
    from inlay.types import Hit

__all__ = ["command"]

SLOW = 1.0  # seconds of indexing after which even a program's log is told what the time went into


@click.command("search")
@click.argument("query")
@click.argument("path", default=".", type=click.Path(exists=True, path_type=Path))
@click.option("-k", "--limit", default=10, show_default=True, type=click.IntRange(min=1), help="How many answers.")
@click.option(
    "-w",
    "--where",
    "conditions",
    metavar="FILTER",
    multiple=True,
    help="Only documents like this: 'year>=2020', lang=en, kind!=code, 'path~*.py', or JSON. Repeatable.",
)
@click.option("--mode", type=click.Choice(["hybrid", "dense", "lexical"]), help="Which vectors to search by.")
@click.option("--encoder", metavar="NAME", help="What makes the dense vectors, if this is the first time.")
@click.option("--include", metavar="GLOB", multiple=True, help="Only answers from files like this. Repeatable.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="No answers from files like this. Repeatable.")
@click.option("-C", "--context", default=3, show_default=True, type=click.IntRange(min=1), help="Lines of each answer.")
@click.option("--no-sync", is_flag=True, help="Search what is indexed, without looking for changed files.")
@click.option("--explain", is_flag=True, help="Show what each kind of vector contributed.")
@click.option("--json", "json_wanted", is_flag=True, help="Print the answers as JSON.")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Colours, and the layout for people that goes with them.",
)
@click.pass_context
def command(
    ctx: click.Context,
    query: str,
    path: Path,
    limit: int,
    conditions: tuple[str, ...],
    mode: str | None,
    encoder: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    context: int,
    no_sync: bool,
    explain: bool,
    json_wanted: bool,
    color: Literal["auto", "always", "never"],
) -> None:
    """Search PATH, a folder or a collection, for QUERY by meaning.

    The first search of a folder indexes it; later ones read only what changed. In a pipe, each answer is one line:
    path:line, score and text, parted by tabs. The exit code is 1 where nothing was found, except with --json.
    """
    from inlay.cli.where import both, globs, parse

    if not query.strip():
        raise BadInput("the query is empty; say what to look for")
    where = both(parse(conditions), globs(include, exclude))
    options: dict[str, Any] = {"where": where, "mode": mode, "k": limit}
    place = locate(path)
    hits, place = _search(query, place, options, encoder=encoder, sync=not no_sync)
    if not hits and place.within and not place.alone and not no_sync and not _covers(place):
        # The index of the folder round it leaves this part out (.gitignore, say), yet it was asked for by name.
        place = locate(path, own=True)
        hits, place = _search(query, place, options, encoder=encoder, sync=True)

    from inlay.cli import show

    if json_wanted:
        show.print_json(show.as_json(hits, query, place))
        return
    look = show.Look.of(color, context)
    for line in (show.as_page if look.page else show.as_lines)(hits, query, place, look, explain=explain):
        click.echo(line, color=True)
    if not hits:
        if sys.stderr.isatty():
            click.echo("nothing found", err=True)
        ctx.exit(1)


def _search(
    query: str, place: Place, options: dict[str, Any], *, encoder: str | None, sync: bool
) -> tuple[list[Hit], Place]:
    from inlay.cli.index import open_place, with_present_model
    from inlay.cli.where import both

    if not sync and not place.exists:
        raise BadInput(f"{place} is not indexed yet; leave --no-sync out, or run: inlay index {place}")

    def found() -> tuple[list[Hit], str | None]:
        # For writing also where nothing is synchronised: vectors that are made for this query are kept for the next.
        with open_place(place, encoder=encoder) as collection:
            if sync and place.folder is not None:
                _refresh(collection, place)
            hits = collection.search(
                query, options["k"], where=both(options["where"], place.where), mode=options["mode"], per="chunk"
            )
            # A collection that was asked for by its own name may still mirror a folder: its paths lie below that one.
            return hits, collection.settings.get("folder") if place.folder is None else None

    hits, mirrored = with_present_model(place, found) if sync else found()
    return hits, dataclasses.replace(place, folder=Path(mirrored)) if mirrored and os.path.isdir(mirrored) else place


def _refresh(collection: Collection, place: Place) -> None:
    from inlay.cli.index import mirror, say, summary

    try:
        report = mirror(collection, place)
    except Locked as error:
        if not len(collection):
            raise Locked(f"another process is just indexing {place}; search again when it is done") from error
        say("another process is indexing; this searches what is indexed so far")
        return
    if (report.added or report.updated or report.removed) and (sys.stderr.isatty() or report.seconds > SLOW):
        say(f"indexed {summary(report)}")


def _covers(place: Place) -> bool:
    from inlay.cli.index import open_place

    with open_place(place, mode="r") as collection:
        return any(place.holds(str(document.metadata.get("path", document.id))) for document in collection)
