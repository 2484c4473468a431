"""Units to chunks: the one place where sizes are decided.

A chunker says where a text may be cut (its units, which cover the text in order); `cut` splits the units that are too
long, joins the ones that are too short, and gives each chunk its lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from inlay.types import Chunk

__all__ = ["ARROW", "LIMIT", "Unit", "cut", "line_starts", "split", "target_of"]

LIMIT = 1600
ARROW = " › "

# Where to split what is too long: the earlier the better.
_BOUNDARIES = (
    re.compile(r"\n[^\S\n]*\n"),
    re.compile(r"\n"),
    re.compile(r"""[.!?…]["'”’)\]]*\s|[。！？]"""),
    re.compile(r"\s"),
)
_LONGEST_HEADING = 80


class Unit(NamedTuple):
    """A span of text that belongs together.

    Args:
        start: first character.
        stop: one past the last.
        heading: what it stands under.
        apart: never join it with a unit of another heading.
    """

    start: int
    stop: int
    heading: str = ""
    apart: bool = False


class _Piece(NamedTuple):
    """A trimmed span on its way to being a chunk; `tiny` while everything joined into it was."""

    start: int
    stop: int
    heading: str
    apart: bool
    tiny: bool


def target_of(limit: int) -> int:
    """The length to aim at, given the length never to exceed: 1,000 for 1,600."""
    return max(1, limit * 5 // 8)


def cut(text: str, units: Iterable[Unit], limit: int = LIMIT) -> list[Chunk]:
    """Chunks of at most `limit` characters that cover everything in the text but blanks, in order.

    Units of one heading are joined up to the target length. Under different headings only tiny neighbours are, and a
    scrap (a closing brace, a lone heading) goes with whatever stands beside it.

    Args:
        text: the whole text.
        units: spans that cover it in order; blanks may be left out.
        limit: most characters of a chunk.
    """
    target = target_of(limit)
    pieces = _joined(_pieces(text, units, limit), target // 4, target // 16, target, limit)
    returns = "\r" in text
    chunks = []
    line, at = 1, 0
    for start, stop, heading, _, _ in pieces:
        line += _newlines(text, at, start, returns)
        at = start
        chunks.append(Chunk(start, stop, line, line + _newlines(text, start, stop, returns), heading))
    return chunks


def split(text: str, start: int, stop: int, limit: int = LIMIT) -> Iterator[tuple[int, int]]:
    """Cut a span into spans of at most `limit` characters: at blank lines, else lines, sentences, spaces, anywhere.

    Each step looks at one window of the text only, so a line of any length takes linear time.
    """
    target = target_of(limit)
    while stop - start > limit:
        low, aim, high = start + max(1, target // 2), start + target, start + limit
        at = high
        for boundary in _BOUNDARIES:
            ends = [match.end() for match in boundary.finditer(text, low, high)]
            if ends:
                at = max((end for end in ends if end <= aim), default=ends[0])
                break
        yield start, at
        start = at
    yield start, stop


def line_starts(text: str) -> list[int]:
    r"""Offset of the first character of each line, lines ending as compilers see it (`\n`, `\r\n`, `\r`)."""
    if "\r" in text:
        return [0, *(match.end() for match in re.finditer(r"\r\n?|\n", text))]
    return [0, *accumulate(len(line) + 1 for line in text.split("\n")[:-1])]


def _pieces(text: str, units: Iterable[Unit], limit: int) -> Iterator[_Piece]:
    tiny = target_of(limit) // 4
    for start, stop, heading, apart in units:
        spans = ((start, stop),) if stop - start <= limit else split(text, start, stop, limit)
        for start, stop in spans:
            body = text[start:stop]
            tail = body.rstrip()
            if not tail:
                continue
            stop = start + len(tail)
            if body[0].isspace():
                # Drop blank lines but keep the indentation of the first line that says something.
                first = start + len(tail) - len(tail.lstrip())
                start = max(text.rfind("\n", start, first), text.rfind("\r", start, first), start - 1) + 1
            yield _Piece(start, stop, heading, apart, stop - start < tiny)


def _joined(pieces: Iterable[_Piece], tiny: int, scrap: int, target: int, limit: int) -> list[_Piece]:
    done: list[_Piece] = []
    for alike in (True, False):  # first within a heading, so that a section is whole before it meets its neighbour
        done, waiting = [], done or pieces
        for piece in waiting:
            if done:
                last = done[-1]
                same = last.heading == piece.heading
                length = piece.stop - last.start
                short = piece.stop - piece.start < scrap or last.stop - last.start < scrap
                if length <= (limit if short else target) and (
                    same if alike else not (last.apart or piece.apart) and (short or (last.tiny and piece.tiny))
                ):
                    heading = last.heading if same else _common(last.heading, piece.heading)
                    done[-1] = _Piece(
                        last.start,
                        piece.stop,
                        heading,
                        last.apart,
                        length < tiny if alike else last.tiny and piece.tiny,
                    )
                    continue
            done.append(piece)
    return done


def _common(first: str, second: str) -> str:
    """One heading for two neighbours: the path they share, else both names."""
    if not first or not second:
        return first or second
    mark = ARROW if ARROW in first or ARROW in second else "."
    shared = []
    for left, right in zip(first.split(mark), second.split(mark)):
        if left != right:
            break
        shared.append(left)
    if shared:
        return mark.join(shared)
    both = f"{first}, {second}"
    return both if len(both) <= _LONGEST_HEADING else first


def _newlines(text: str, start: int, stop: int, returns: bool) -> int:
    count = text.count("\n", start, stop)
    if returns:
        count += text.count("\r", start, stop) - text.count("\r\n", start, stop)
    return count
