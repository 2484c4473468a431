"""Prose: paragraphs, then lines, then sentences. Nothing here has a heading."""

from __future__ import annotations

from inlay.documents.spans import LIMIT, Unit, split

__all__ = ["units"]


def units(text: str, limit: int = LIMIT) -> list[Unit]:
    """Spans near the target length that end at a paragraph where one ends in reach."""
    return [Unit(start, stop) for start, stop in split(text, 0, len(text), limit)]
