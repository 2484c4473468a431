"""Code in any language: blocks between blank lines, grouped by indentation."""

from __future__ import annotations

import re
from itertools import pairwise

from inlay.documents import prose
from inlay.documents.definitions import BLOCK_COMMENT, first_definition
from inlay.documents.spans import LIMIT, Unit

__all__ = ["units"]

# Blank lines, with the indentation that follows; or a block comment, whose blank lines end nothing.
_BLOCK = re.compile(rf"\n(?:[^\S\n]*+\n)++(?=([ \t]*+))|^[ \t]*+{BLOCK_COMMENT}", re.M)
_CLOSERS = frozenset("})]")
_NEVER = 1 << 30  # indentation of a block at which a group must not be cut
_DEEPEST = 8
_GROUPED_UP_TO = 5_000_000  # characters; longer is data


def units(text: str, language: str | None = None, limit: int = LIMIT) -> list[Unit]:
    """Groups of blocks that fit the limit, each named after the first thing it defines.

    A group too long is cut before its least indented blocks, again and again: first between the classes of a file,
    then between the methods of a class. Braces need not be counted for that: people indent.
    """
    if len(text) > _GROUPED_UP_TO:
        return prose.units(text, limit)
    starts, indents = [0], [0]
    for match in _BLOCK.finditer(text):
        if match[1] is None:
            continue
        first = text[match.end(1) : match.end(1) + 1]
        starts.append(match.start(1))
        indents.append(_NEVER if first in _CLOSERS or not first else len(match[1].expandtabs(4)))
    starts.append(len(text))
    found: list[Unit] = []

    def group(low: int, high: int, parent: str, depth: int) -> None:
        """Emit blocks `low` to `high` as one unit, or as several that stand under `parent`."""
        start, stop = starts[low], starts[high]
        name = first_definition(text, start, stop, language)
        heading = f"{parent}.{name}" if parent and name else parent or name
        level = min(indents[low + 1 : high], default=_NEVER)
        if stop - start <= limit or level == _NEVER or depth == _DEEPEST:
            found.append(Unit(start, stop, heading))
            return
        cuts = [low, *(block for block in range(low + 1, high) if indents[block] == level), high]
        inner = heading if level > indents[low] else parent
        for position, (first, last) in enumerate(pairwise(cuts)):
            group(first, last, inner if position else parent, depth + 1)

    group(0, len(starts) - 1, "", 0)
    return found
