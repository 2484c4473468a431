"""A file to documents, by the reader that fits its name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from inlay.documents.decode import Unreadable, decode
from inlay.documents.folder import Source
from inlay.documents.formats import PLAIN, Format, recognise
from inlay.types import Document

__all__ = ["read"]

_SNIFFED = 8192
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
_SHEBANG = re.compile(r"#![^\n]*?\b(python|bash|zsh|sh|node|perl|ruby|Rscript|lua|php)[\d.]*\b")
_INTERPRETED = {"bash": "shell", "zsh": "shell", "sh": "shell", "node": "javascript", "Rscript": "r"}


def read(
    source: Source | str | os.PathLike[str],
    name: str | None = None,
    *,
    on_skip: Callable[[str, str], None] | None = None,
) -> list[Document]:
    """The documents in a file: one for most formats, one for each row of a table, none if it is empty.

    Every document carries `path` and `kind` in its metadata, and code its `language`. The id is the file's name, with
    `#` and a line (or item) number for rows. Formats whose text is not the file's own (HTML, notebooks, PDF, rows)
    come with their chunks.

    Args:
        source: what `walk` found, or a path.
        name: what to call the file; by default its name below the walked root, or the last part of the path.
        on_skip: called with (name, reason) for each row or page that had to be left out.

    Raises:
        Unreadable: the file is missing, not permitted, binary or malformed, or its reader is not installed.
    """
    path = source.path if isinstance(source, Source) else source
    name = name or (source.name if isinstance(source, Source) else os.path.basename(os.fspath(source)))
    on_skip = on_skip or (lambda name, reason: None)
    form = recognise(os.path.basename(os.fspath(path))) or PLAIN
    data = _bytes(path, name, sniff=form.kind != "pdf")
    if form.kind == "pdf":
        from inlay.documents import pdf

        return pdf.read(data, name, on_skip)
    text = decode(data, name)
    del data
    if not text or text.isspace():
        return []
    if form.kind == "html":
        from inlay.documents import html

        return html.read(text, name)
    if form.kind == "notebook":
        from inlay.documents import notebook

        return notebook.read(text, name)
    if form.kind == "rows":
        from inlay.documents import rows

        documents = rows.read(text, name, os.fspath(path).rpartition(".")[2].lower(), on_skip)
        if documents is not None:
            return documents
        form = PLAIN
    if form is PLAIN and text.startswith("#!") and (shebang := _SHEBANG.match(text)):
        form = Format("code", _INTERPRETED.get(shebang[1], shebang[1]))
    metadata: dict[str, Any] = {"path": name, "kind": form.kind}
    if form.language:
        metadata["language"] = form.language
    return [Document(name, text, metadata)]


def may_read(source: Source) -> bool:
    """Whether nothing outside a file (its permissions, a reader that is not installed) forbids reading it."""
    form = recognise(os.path.basename(os.fspath(source.path))) or PLAIN
    return os.access(source.path, os.R_OK) and (form.kind != "pdf" or find_spec("pypdf") is not None)


def _bytes(path: str | os.PathLike[str], name: str, sniff: bool) -> bytes:
    """The file's content; a binary file is given up after its first page."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise Unreadable(name, "not a regular file")
        with open(path, "rb", buffering=0) as file:
            head = file.read(_SNIFFED) or b""
            if sniff and b"\0" in head and not head.startswith(_WIDE_MARKS):
                raise Unreadable(name, "binary")
            return head + file.readall() if len(head) == _SNIFFED else head
    except OSError as error:
        raise Unreadable(name, (error.strerror or str(error)).lower(), passing=True) from None
