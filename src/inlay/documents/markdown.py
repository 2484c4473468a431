"""Markdown: sections by heading, blocks within a section, as a CommonMark parser sees them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from inlay.documents import prose
from inlay.documents.spans import ARROW, LIMIT, Unit, line_starts

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

__all__ = ["FRONT_MATTER", "plain", "units"]

FRONT_MATTER = "front matter"

_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\r?\n.*?^(?:\1|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.M | re.S)
_FRONT_MATTER_WITHIN = 20_000
# A block costs the parser some 50 µs, and there may be one in every three characters; beyond this, prose will do.
_PARSED_UP_TO = 2_000_000

_LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])")
_MARKUP = re.compile(r"[*`]+|<[^<>]*>|(?<!\w)_+|_+(?!\w)|\s*\{[#.:][^{}]*\}\s*$")


@cache
def _parser() -> MarkdownIt:
    """Blocks only: the inline phase costs more than the rest and says nothing about where to cut."""
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").disable("inline")


def units(text: str, limit: int = LIMIT) -> list[Unit]:
    """Top-level blocks under their heading path; a heading goes with the block that follows it."""
    if len(text) > _PARSED_UP_TO:
        return prose.units(text, limit)
    found: list[Unit] = []
    matter = _FRONT_MATTER.match(text, 0, _FRONT_MATTER_WITHIN)
    begin = matter.end() if matter else 0
    if matter:
        found.append(Unit(0, begin, FRONT_MATTER, apart=True))
    body = text[begin:] if begin else text
    starts = line_starts(body)
    tokens = _parser().parse(body)

    path: list[tuple[int, str]] = []
    start, heading, lone = 0, "", False  # the block being read, and whether it is a heading so far

    def close(stop: int) -> None:
        nonlocal start
        if stop > start:
            found.append(Unit(begin + start, begin + stop, heading))
        start = stop

    for position, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        here = starts[token.map[0]]
        if token.type != "heading_open":
            if not lone:
                close(here)
            lone = False
            continue
        level = int(token.tag[1])
        if not (lone and path and level > path[-1][0]):
            close(here)
        while path and path[-1][0] >= level:
            path.pop()
        path.append((level, plain(tokens[position + 1].content)))
        heading = ARROW.join(name for _, name in path if name)
        lone = True
    close(len(body))
    return found


def plain(title: str) -> str:
    """A heading without its markup: links to their words, no emphasis, code marks, tags or attributes."""
    return " ".join(_MARKUP.sub("", _LINK.sub(r"\1", title)).split())
