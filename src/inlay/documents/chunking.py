"""A document to its passages, by the chunker that fits its kind."""

from __future__ import annotations

from typing import Any

from inlay.documents.spans import LIMIT, Unit, cut
from inlay.errors import BadInput
from inlay.types import Chunk, Document

__all__ = ["chunk", "units_of"]


def chunk(
    document: Document | str, *, kind: str | None = None, language: str | None = None, limit: int = LIMIT
) -> list[Chunk]:
    """Cut a text into passages, in order, without overlap, that cover everything but blanks.

    Args:
        document: a document, or a bare text.
        kind: `markdown`, `rst`, `code`; anything else is prose. By default what the document's metadata says.
        language: of code, e.g. `python`. By default what the document's metadata says.
        limit: most characters of a passage; most are near five eighths of it.

    Raises:
        BadInput: the limit is not a positive whole number, or the document is no text.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise BadInput(f"limit must be a positive number of characters, got {limit!r}; the default is {LIMIT}")
    if isinstance(document, Document):
        kind = kind or _word(document.metadata.get("kind"))
        language = language or _word(document.metadata.get("language"))
        document = document.text
    if not isinstance(document, str):
        raise BadInput(f"expected a Document or a string, got {type(document).__name__}; give its text")
    return cut(document, units_of(document, kind or "text", language, limit), limit)


def units_of(text: str, kind: str, language: str | None = None, limit: int = LIMIT) -> list[Unit]:
    """Where a text of some kind may be cut. A kind that nobody knows (a caller's own metadata) is prose."""
    if kind == "code" and language == "python":
        from inlay.documents import python_code

        return python_code.units(text, limit)
    if kind == "code":
        from inlay.documents import code

        return code.units(text, language, limit)
    if kind == "markdown":
        from inlay.documents import markdown

        return markdown.units(text, limit)
    if kind == "rst":
        from inlay.documents import rst

        return rst.units(text)
    from inlay.documents import prose

    return prose.units(text, limit)


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None
