"""Jupyter notebooks: the cells in order, without their outputs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from inlay.documents.chunking import units_of
from inlay.documents.decode import Unreadable
from inlay.documents.spans import ARROW, Unit, cut
from inlay.types import Document

__all__ = ["read"]

_GAP = "\n\n"


def read(text: str, name: str) -> list[Document]:
    """One document; a chunk's heading is its section and cell (`Results › cell 3`). Lines mean nothing here.

    Raises:
        Unreadable: the file is no notebook.
    """
    try:
        notebook = json.loads(text)
        cells = _cells(notebook)
    except (ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:
        raise Unreadable(name, f"malformed notebook: {error}") from None
    language = _language(notebook)
    parts: list[str] = []
    units: list[Unit] = []
    length, section = 0, ""
    for number, (kind, source) in enumerate(cells, start=1):
        if not source.strip():
            continue
        cell = f"cell {number}"
        for unit in units_of(source, kind, language):
            if kind == "markdown":
                section = unit.heading or section
                heading = ARROW.join(filter(None, (section, cell)))
            else:
                heading = ARROW.join(filter(None, (section, cell, unit.heading)))
            units.append(Unit(length + unit.start, length + unit.stop, heading))
        parts.append(source)
        length += len(source) + len(_GAP)
    if not parts:
        return []
    body = _GAP.join(parts)
    chunks = [replace(chunk, line=0, last_line=0) for chunk in cut(body, units)]
    metadata: dict[str, Any] = {"path": name, "kind": "notebook"}
    if language:
        metadata["language"] = language
    return [Document(name, body, metadata, chunks)]


def _cells(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, source) of each cell, of the current format or of the third with its worksheets."""
    cells = notebook.get("cells")
    if cells is None:
        cells = [cell for sheet in notebook["worksheets"] for cell in sheet.get("cells", ())]
    found = []
    for cell in cells:
        source = cell.get("source", cell.get("input", ""))
        source = source if isinstance(source, str) else "".join(map(str, source))
        kind = cell.get("cell_type")
        if kind == "heading":
            kind, source = "markdown", f"{'#' * int(cell.get('level', 1))} {source}"
        found.append((kind if kind in ("code", "markdown") else "text", source))
    return found


def _language(notebook: dict[str, Any]) -> str | None:
    metadata = notebook.get("metadata") or {}
    for key, field in (("language_info", "name"), ("kernelspec", "language")):
        value = (metadata.get(key) or {}).get(field)
        if isinstance(value, str):
            return value.lower()
    return "python"
