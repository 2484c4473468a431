"""Hits for a person at a terminal, for the next program in a pipe, and as JSON."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import click

from inlay.cli.snippet import Span, Window, best_lines

if TYPE_CHECKING:
    from inlay.cli.places import Place
    from inlay.types import Hit

__all__ = ["Look", "as_json", "as_lines", "as_page", "print_json", "printable", "size"]

UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Look:
    """How to print.

    Args:
        page: a block for each hit, for people; otherwise one line for each, for programs.
        colour: mark paths, line numbers and words.
        links: make paths clickable.
        width: columns.
        context: lines shown of a passage.
    """

    page: bool
    colour: bool
    links: bool = False
    width: int = 80
    context: int = 3

    @classmethod
    def of(cls, when: Literal["auto", "always", "never"], context: int = 3) -> Look:
        """What suits standard output: pages on a terminal or where colour is forced, plain lines in a pipe."""
        terminal = sys.stdout.isatty()
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        colour = when == "always" or (when == "auto" and terminal and not plain)
        width = max(shutil.get_terminal_size().columns, 40)
        return cls(terminal or when == "always", colour, colour and terminal and _links(), width, context)

    def paint(self, text: str, **style: Any) -> str:
        """The text in a style, where there is colour."""
        return click.style(text, **style) if self.colour and text else text


def as_page(hits: Sequence[Hit], query: str, place: Place, look: Look, *, explain: bool = False) -> Iterator[str]:
    """Blocks of text for a terminal, with a blank line between them."""
    for number, hit in enumerate(hits):
        if number:
            yield ""
        path = _path(hit)
        window = best_lines(hit.text, query, look.context, hit.heading)
        name = look.paint(printable(place.shown(path)), fg="magenta", bold=True)
        header = [_link(name, place, path) if look.links else name]
        if hit.line:
            header[0] += ":" + look.paint(str(hit.line + window.start + window.best), fg="green")
        if hit.heading:
            header.append(look.paint(printable(hit.heading), dim=True))
        header.append(look.paint(f"{hit.score:.3f}", dim=True))
        yield "  ".join(header)
        yield from _body(hit, window, look)
        if explain:
            yield from _table(hit, look)
    if explain and hits:
        yield ""
        yield look.paint(_footer(hits), dim=True)


def as_lines(hits: Sequence[Hit], query: str, place: Place, look: Look, *, explain: bool = False) -> Iterator[str]:
    """`path:line<TAB>score<TAB>text`, a line for each hit, as grep does."""
    for hit in hits:
        window = best_lines(hit.text, query, 1, hit.heading)
        at = f":{hit.line + window.start}" if hit.line else ""
        text = printable(window.lines[0]).replace("\t", " ").strip()
        yield f"{printable(place.shown(_path(hit)))}{at}\t{hit.score:.4f}\t{text}"
        if explain:
            yield from _table(hit, look)
    if explain and hits:
        yield _footer(hits)


def as_json(hits: Sequence[Hit], query: str, place: Place) -> list[dict[str, Any]]:
    """A dictionary for each hit; `line` is where the passage begins, `match_line` the line that answers best."""
    return [
        {
            "path": place.shown(_path(hit)),
            "line": hit.line,
            "last_line": hit.last_line,
            "match_line": hit.line + best_lines(hit.text, query, 1, hit.heading).start if hit.line else 0,
            "score": hit.score,
            "text": hit.text,
            "id": hit.id,
            "heading": hit.heading,
            "metadata": hit.metadata,
            "spaces": hit.spaces,
            "reranked": hit.reranked,
        }
        for hit in hits
    ]


def print_json(value: Any) -> None:
    """Print a value as JSON that any reader takes: no NaN, numpy scalars as numbers."""
    click.echo(json.dumps(_plain(value), ensure_ascii=False, indent=2))


def printable(text: str) -> str:
    """Text that cannot steer the terminal: no escape sequences, no text that runs backwards, no lone surrogates."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def size(nbytes: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 100 else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def _body(hit: Hit, window: Window, look: Look) -> Iterator[str]:
    gutter = len(str(hit.line + window.start + len(window.lines) - 1)) if hit.line else 0
    # A paragraph kept as one long line may fill the rows that a passage of short lines would have filled.
    room = max(20, (look.width - gutter - 4) * max(1, look.context // len(window.lines)))
    for number, (line, marks) in enumerate(zip(window.lines, window.marks)):
        start, stop = _crop(len(line), marks, room)
        shown, at = [], start
        for first, last in marks:
            first, last = max(first, at), min(last, stop)
            if first < last:
                shown += [printable(line[at:first]), look.paint(printable(line[first:last]), fg="red", bold=True)]
                at = last
        shown.append(printable(line[at:stop]))
        text = ("…" if start else "") + "".join(shown) + ("…" if stop < len(line) else "")
        label = look.paint(str(hit.line + window.start + number).rjust(gutter), fg="green") + "  " if gutter else "  "
        yield (label + text).rstrip()


def _crop(length: int, marks: list[Span], room: int) -> Span:
    if length <= room:
        return 0, length
    first = marks[0][0] if marks else 0
    start = 0 if first < room * 2 // 3 else min(first - room // 4, length - room)
    return start, min(start + room, length)


def _table(hit: Hit, look: Look) -> Iterator[str]:
    """What each space contributed: its rank of the hit, its own score, and its part of what the ranks add up to."""
    if not hit.spaces:
        yield look.paint("    no space reports its part", dim=True)
        return
    wide = max(len("space"), *map(len, hit.spaces))
    yield look.paint(f"    {'space'.ljust(wide)}  {'rank':>5}  {'score':>10}  {'share':>6}", dim=True)
    for name, part in hit.spaces.items():
        rank, score, share = part.get("rank"), part.get("score"), part.get("share")
        cells = [
            printable(name).ljust(wide),
            f"{rank:.0f}".rjust(5) if rank else "–".rjust(5),
            f"{score:.4f}".rjust(10) if score is not None else "–".rjust(10),
            f"{share:.0%}".rjust(6) if share is not None else "–".rjust(6),
        ]
        yield look.paint("    " + "  ".join(cells), dim=True)


def _footer(hits: Sequence[Hit]) -> str:
    again = [str(number) for number, hit in enumerate(hits, 1) if hit.reranked]
    if not again:
        return "No hit was re-ranked: every space had its vectors."
    return f"Re-ranked with vectors made on demand: hits {', '.join(again)} of {len(hits)}."


def _path(hit: Hit) -> str:
    path = hit.metadata.get("path")
    return path if isinstance(path, str) and path else hit.id


def _links() -> bool:
    """Whether the terminal follows OSC 8 links; one that does not might print them as text."""
    env = os.environ
    if "FORCE_HYPERLINK" in env:
        return env["FORCE_HYPERLINK"] not in ("", "0")
    known = {"iTerm.app", "WezTerm", "vscode", "ghostty", "Hyper", "Tabby", "rio"}
    return (
        env.get("TERM_PROGRAM") in known
        or any(name in env for name in ("KITTY_WINDOW_ID", "WT_SESSION", "KONSOLE_VERSION", "DOMTERM"))
        or env.get("TERM", "").startswith(("xterm-kitty", "alacritty", "foot", "xterm-ghostty"))
        or (env.get("VTE_VERSION", "").isdigit() and int(env["VTE_VERSION"]) >= 5000)
    )


def _link(text: str, place: Place, path: str) -> str:
    file = place.file(path)
    if file is None:
        return text
    return f"\x1b]8;;file://{socket.gethostname()}{quote(os.fsencode(file))}\x1b\\{text}\x1b]8;;\x1b\\"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # NaN and infinities have no name in JSON
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return value if value is None or isinstance(value, bool | int | float) else str(value)
