"""HTML: the words a reader sees, under the headings they see them under, with the lines of the source."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import replace
from html.parser import HTMLParser

from inlay.documents import prose
from inlay.documents.spans import ARROW, Unit, cut
from inlay.types import Chunk, Document

__all__ = ["read"]

_NOISE = frozenset({"script", "style", "template", "noscript", "nav", "svg", "iframe", "button", "select", "object"})
_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_PARAGRAPHS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "details", "dialog", "div", "dl", "fieldset", "figure"),
        *("footer", "form", "header", "hr", "html", "main", "ol", "p", "pre", "section", "table", "ul"),
    )
)
_LINES = frozenset({"br", "caption", "dd", "dt", "figcaption", "legend", "li", "option", "summary", "tr"})
_CELLS = frozenset({"td", "th"})
_BLANKS = re.compile(r"\s+")
_UNCLOSED = 1_000


def read(text: str, name: str) -> list[Document]:
    """One document of the visible text, with its chunks; `title` goes to the metadata."""
    metadata = {"path": name, "kind": "html"}
    # The parser looks for the end of every unclosed tag through the rest of the file, so thousands of them would take
    # the square of its length. Such a file is no HTML anyway.
    if text.count("<") - text.count(">") > _UNCLOSED:
        return [Document(name, text, metadata, cut(text, prose.units(text)))]
    page = _Page()
    page.feed(text)
    page.close()
    if title := " ".join("".join(page.title).split()):
        metadata["title"] = title
    visible = "".join(page.parts)
    if not visible.strip():
        return [Document(name, title, metadata, [Chunk(0, len(title), 1, 1, "")])] if title else []
    chunks = [page.at_source(chunk, visible) for chunk in cut(visible, page.units())]
    return [Document(name, visible, metadata, chunks)]


class _Page(HTMLParser):
    """Collects text, and an anchor (offset in the text, line in the source) wherever a source line begins."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.length = 0
        self.title: list[str] = []
        self.anchors: list[int] = []
        self.lines: list[int] = []
        self.sections: list[tuple[int, str]] = [(0, "")]
        self.path: list[tuple[int, list[str]]] = []
        self.noise: list[str] = []
        self.in_title = self.in_heading = False
        self.pre = 0
        self.gap = ""  # blanks owed before the next word
        self.lone_heading = False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if self.noise:
            if tag == self.noise[-1]:
                self.noise.append(tag)
        elif tag in _NOISE:
            self.noise.append(tag)
        elif tag == "title":
            self.in_title = True
        elif tag in _HEADINGS:
            self.separate("\n\n")
            self.open_heading(int(tag[1]))
        else:
            self.pre += tag == "pre"
            self.separate_at(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if not self.noise:
            self.separate_at(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.noise:
            if tag == self.noise[-1]:
                self.noise.pop()
        elif tag == "title":
            self.in_title = False
        elif tag in _HEADINGS:
            self.in_heading = False
            self.separate("\n\n")
        else:
            self.pre = max(0, self.pre - (tag == "pre"))
            self.separate_at(tag)

    def handle_data(self, data: str) -> None:
        if self.noise:
            return
        if self.in_title:
            self.title.append(data)
            return
        line = self.getpos()[0]
        for number, row in enumerate(data.split("\n")):
            if number:
                self.separate("\n" if self.pre else " ", again=bool(self.pre))
            words = row if self.pre else _BLANKS.sub(" ", row)
            if not words.strip():
                if words:
                    self.separate(" ")
                continue
            if words[0] == " " and not self.pre:
                self.separate(" ")
            self.say(words if self.pre else words.strip(), line + number)
            if words[-1] == " " and not self.pre:
                self.separate(" ")

    def say(self, words: str, line: int) -> None:
        if self.parts and self.gap:
            self.parts.append(self.gap)
            self.length += len(self.gap)
        self.gap = ""
        if self.in_heading:
            self.path[-1][1].append(words)
        elif self.lone_heading:
            self.lone_heading = False
            self.sections[-1] = (self.sections[-1][0], self.heading())
        self.anchors.append(self.length)
        self.lines.append(line)
        self.parts.append(words)
        self.length += len(words)

    def separate(self, blanks: str, again: bool = False) -> None:
        """Owe blanks before the next word; the most separating wins."""
        self.gap = self.gap + blanks if again else max(self.gap, blanks, key=lambda gap: (gap.count("\n"), len(gap)))

    def separate_at(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self.separate("\n\n")
        elif tag in _LINES:
            self.separate("\n")
        elif tag in _CELLS:
            self.separate(" ")

    def open_heading(self, level: int) -> None:
        deeper = self.lone_heading and self.path and level > self.path[-1][0]
        if self.lone_heading and not deeper:
            self.sections[-1] = (self.sections[-1][0], self.heading())
        while self.path and self.path[-1][0] >= level:
            self.path.pop()
        self.path.append((level, []))
        if not deeper:
            self.sections.append((self.length, ""))
        self.in_heading = self.lone_heading = True

    def heading(self) -> str:
        return ARROW.join(name for _, words in self.path if (name := " ".join(words)))

    def units(self) -> list[Unit]:
        if self.lone_heading:
            self.sections[-1] = (self.sections[-1][0], self.heading())
        stops = [start for start, _ in self.sections[1:]] + [self.length]
        return [Unit(start, stop, heading) for (start, heading), stop in zip(self.sections, stops)]

    def at_source(self, chunk: Chunk, visible: str) -> Chunk:
        """The chunk with the lines of the source in place of those of the text."""
        blanks = chunk.stop - chunk.start - len(visible[chunk.start : chunk.stop].lstrip())
        first = self.lines[bisect_right(self.anchors, chunk.start + blanks) - 1]
        last = self.lines[bisect_right(self.anchors, chunk.stop - 1) - 1]
        return replace(chunk, line=first, last_line=last)
