"""reStructuredText: sections by adornment, levels in order of appearance."""

from __future__ import annotations

import re

from inlay.documents.spans import ARROW, Unit

__all__ = ["units"]

_TITLE = re.compile(
    r"""
    (?:\A|(?<=\n))
    (?:(?P<over>(?P<rule>[!-/:-@[-`{-~])(?P=rule)+)[ \t]*\r?\n(?=[ \t]*\S))?
    (?P<title>(?(over)[ \t]*)[^\s].*?)[ \t]*\r?\n
    (?P<under>(?P<char>[!-/:-@[-`{-~])(?P=char)*)[ \t]*(?:\r?\n|\Z)
    """,
    re.X,
)
_RULE = re.compile(r"([!-/:-@[-`{-~])\1*\s*\Z")
_ROLE = re.compile(r":[\w:+.-]+:`([^`<]*?)(?:\s*<[^`]*>)?`|`+([^`<]*?)(?:\s*<[^`]*>)?`+_*")


def units(text: str) -> list[Unit]:
    """Sections under their heading path; a title goes with the text that follows it."""
    found: list[Unit] = []
    styles: list[tuple[str, bool]] = []
    path: list[str] = []
    start, heading = 0, ""
    body = 0  # where the text below the last title begins
    for match in _titles(text):
        style = (match["char"], match["over"] is not None)
        if style not in styles:
            styles.append(style)
        level = styles.index(style)
        deeper = level >= len(path)
        if (not deeper or text[body : match.start()].strip()) and match.start() > start:
            found.append(Unit(start, match.start(), heading))
            start = match.start()
        path[level:] = [_plain(match["title"])]
        heading = ARROW.join(path)
        body = match.end()
    if start < len(text):
        found.append(Unit(start, len(text), heading))
    return found


def _titles(text: str) -> list[re.Match[str]]:
    titles = []
    at = 0
    while match := _TITLE.search(text, at):
        at = match.end()
        title, under, over = match["title"].strip(), match["under"], match["over"]
        enough = len(under) >= len(title) or len(under) >= 4
        matched = over.strip() == under if over else _blank_before(text, match.start())
        if enough and matched and not _RULE.match(title):
            titles.append(match)
        else:
            at = text.find("\n", match.start()) + 1 or len(text)
    return titles


def _blank_before(text: str, start: int) -> bool:
    """Whether a line opens a block: at the top of the file, or after a blank line."""
    return not start or not text[text.rfind("\n", 0, start - 1) + 1 : start].strip()


def _plain(title: str) -> str:
    return " ".join(_ROLE.sub(lambda match: match[1] or match[2] or "", title).replace("**", "").split())
