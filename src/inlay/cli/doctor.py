"""`inlay doctor`: verify every byte of an index, repair what can be repaired, and measure what its searches find."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from inlay.cli.index import open_place, say
from inlay.cli.places import Place, locate
from inlay.errors import InlayError

if TYPE_CHECKING:
    from inlay.evaluation.collection_recall import CollectionRecall

__all__ = ["command"]


@click.command("doctor")
@click.argument("path", default=".", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Make again what does not verify.")
@click.option("--recall", "recall_wanted", is_flag=True, help="Also measure what searches find of what they should.")
@click.option(
    "--sample", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="Passages --recall asks with."
)
@click.option("--json", "json_wanted", is_flag=True, help="Print the findings as JSON.")
@click.pass_context
def command(ctx: click.Context, path: Path, repair: bool, recall_wanted: bool, sample: int, json_wanted: bool) -> None:
    """Verify the index of PATH, byte by byte. The exit code is 0 only if all of it verifies.

    --recall compares the searches of the index with exact ones, and says what a graph over its dense rows would lose.
    """
    place = locate(path)
    found, left = _examine(place, repair)
    recall = _recall(place, sample) if recall_wanted and not left else None
    if json_wanted:
        from inlay.cli.show import print_json

        report: dict[str, Any] = {"path": str(place.collection), "ok": not left, "problems": left}
        report |= {"repaired": [problem for problem in found if problem not in left]} if repair else {}
        print_json(report | ({"recall": recall.to_dict()} if recall else {}))
    else:
        for problem in found:
            click.echo(f"- {problem}")
        if not left:
            click.echo("repaired; everything verifies" if found else "everything verifies")
        elif repair:
            say(f"{len(left)} of {len(found)} problems are left. {_last_resort(place)}")
        else:
            say(f"{len(left)} problem{'s' if len(left) > 1 else ''}. To repair: inlay doctor --repair {path}")
        for line in recall.lines() if recall else ():
            click.echo(line)
        if recall_wanted and left:
            say("recall is measured once everything verifies")
    ctx.exit(1 if left else 0)


def _examine(place: Place, repair: bool) -> tuple[list[str], list[str]]:
    """The problems found, and those that are left in the end."""
    if not place.exists:
        open_place(place, mode="r")  # says how to make one
    found: list[str] = []
    try:
        with open_place(place, mode="a" if repair else "r") as collection:
            found = left = list(collection.verify())
            if repair and found:
                collection.repair()
                left = list(collection.verify())
            return found, left
    except InlayError as error:
        # What cannot even be opened, or be mended, is a finding like another: the doctor has to say so, not to fall.
        problem = str(error)
        return [*found, problem], [*found, problem]


def _recall(place: Place, sample: int) -> CollectionRecall:
    from inlay.evaluation.collection_recall import collection_recall

    with open_place(place, mode="r") as collection:
        return collection_recall(collection, sample=sample, progress=sys.stderr.isatty())


def _last_resort(place: Place) -> str:
    if place.folder is not None:
        return f"To make it again from the files: inlay index --rebuild {place.source}"
    return "What can still be read can be saved: inlay export"
