"""PDF: the text of each page, through pypdf (extra `pdf`)."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from inlay.documents.decode import Unreadable
from inlay.documents.spans import Unit, cut
from inlay.errors import MissingExtra
from inlay.types import Document

__all__ = ["read"]

_GAP = "\n\n"


def read(data: bytes, name: str, on_skip: Callable[[str, str], None]) -> list[Document]:
    """One document; a chunk's heading is its page (`page 3`), and no chunk spans two. Lines mean nothing here.

    Raises:
        Unreadable: pypdf is not installed, or the file is encrypted, damaged or without text.
    """
    if not data:
        return []
    try:
        import pypdf
    except ImportError:
        raise Unreadable(name, str(MissingExtra("PDF files", "pdf")), passing=True) from None
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every slip that it mends
    metadata: dict[str, Any] = {"path": name, "kind": "pdf"}
    try:
        reader = pypdf.PdfReader(io.BytesIO(data), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(name, "encrypted")
        pages = list(reader.pages)
    except Unreadable:
        raise
    except Exception as error:  # a damaged file fails anywhere in the parser
        raise Unreadable(name, f"malformed PDF: {error}") from None
    if title := _title(reader):
        metadata["title"] = title
    parts: list[str] = []
    units: list[Unit] = []
    length = 0
    for number, page in enumerate(pages, start=1):
        try:
            text = page.extract_text().replace("\0", "").encode("utf-8", "replace").decode("utf-8")
        except Exception as error:
            on_skip(f"{name} page {number}", f"malformed page: {error}")
            continue
        if not text.strip():
            continue
        units.append(Unit(length, length + len(text), f"page {number}", apart=True))
        parts.append(text)
        length += len(text) + len(_GAP)
    if not parts:
        raise Unreadable(name, f"no text on its {len(pages)} pages (scanned?); run it through text recognition first")
    metadata["pages"] = len(pages)
    body = _GAP.join(parts)
    return [Document(name, body, metadata, [replace(chunk, line=0, last_line=0) for chunk in cut(body, units)])]


def _title(reader: Any) -> str:
    try:
        return str((reader.metadata and reader.metadata.title) or "").strip()
    except Exception:  # broken metadata is no reason to lose the text
        return ""
