"""Files to documents to chunks.

`walk` finds the files of a folder that are worth reading, `read` turns a file into documents, and `chunk` cuts a
document into passages that know their lines and headings::

    for source in walk("notes"):
        for document in read(source):
            for passage in document.chunks or chunk(document):
                print(source.name, passage.line, passage.heading)

A file that cannot be read raises `Unreadable`; `walk` raises for its root only, and reports everything else it leaves
out through a callback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from inlay.faces import lazy

if TYPE_CHECKING:
    from inlay.documents.chunking import chunk
    from inlay.documents.decode import Unreadable
    from inlay.documents.folder import Source, walk
    from inlay.documents.reading import read

__all__ = ["Source", "Unreadable", "chunk", "read", "walk"]

_HOMES = {"Source": "folder", "Unreadable": "decode", "chunk": "chunking", "read": "reading", "walk": "folder"}

__getattr__, __dir__ = lazy(__name__, _HOMES)
