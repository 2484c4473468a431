"""One state of a collection, read consistently: the manifest at a moment, its segments opened, its text fetched."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inlay.collection.catalog import Catalog
from inlay.collection.dense_view import DenseView
from inlay.collection.filters import compile_filter
from inlay.collection.multi_view import MultiView
from inlay.collection.segment import Segment
from inlay.collection.views import LexicalView, SparseView
from inlay.errors import Corrupt
from inlay.types import Document, Space

__all__ = ["DENSE", "LEXICAL", "Passage", "Snapshot", "StoredSpace", "embeddable", "searchable", "stored_spaces"]

LEXICAL, DENSE = "lexical", "dense"  # names of the two spaces that every collection may have


@dataclass(frozen=True)
class StoredSpace:
    """A space as the catalog knows it."""

    number: int
    name: str
    space: Space
    dtype: str
    spec: dict[str, Any] | None


@dataclass(slots=True)
class Passage:
    """A chunk with its text and its document's id and metadata."""

    chunk: int
    number: int
    line: int
    last_line: int
    heading: str
    id: str
    metadata: dict[str, Any]
    text: str


def embeddable(metadata: Mapping[str, Any], heading: str, text: str) -> str:
    """What an encoder reads of a passage: where it stands, then what it says."""
    title = metadata.get("title")
    head = " › ".join(part for part in (title if isinstance(title, str) else "", heading) if part)
    return f"{head}\n{text}" if head else text


def searchable(metadata: Mapping[str, Any], heading: str, text: str) -> str:
    """What the lexical space reads of a passage: also the path, and the parts of compound identifiers in code."""
    out = embeddable(metadata, heading, text)
    path = metadata.get("path")
    if isinstance(path, str):
        out = f"{path}\n{out}"
    if metadata.get("kind") in ("code", "notebook"):
        from inlay.documents.identifiers import split_identifiers

        out = f"{out}\n{split_identifiers(out)}"
    return out


def stored_spaces(catalog: Catalog) -> dict[str, StoredSpace]:
    """The spaces of a collection by name; reads no segment, so it works on a damaged one."""
    return {
        name: StoredSpace(number, name, Space(kind, dim, metric, mark), dtype, json.loads(spec) if spec else None)
        for number, name, kind, dim, metric, mark, dtype, spec in catalog.all(
            "SELECT space, name, kind, dim, metric, fingerprint, dtype, spec FROM spaces ORDER BY space"
        )
    }


class Snapshot:
    """The collection as its catalog stood at one moment.

    Args:
        catalog: pinned, or owned by the only writer.
        folder: the collection's folder.
        patient: raise FileNotFoundError where a segment is missing, because a compaction may just have replaced it;
            otherwise a missing segment is a damaged one.
    """

    def __init__(self, catalog: Catalog, folder: Path, *, patient: bool = True) -> None:
        self._catalog = catalog
        # Spaces with a segment that cannot be opened. They cannot be searched; the documents can be read all the same.
        self.broken: dict[str, Corrupt] = {}
        self.spaces = stored_spaces(catalog)
        names = {stored.number: name for name, stored in self.spaces.items()}
        self.segments: dict[str, list[Segment]] = {name: [] for name in self.spaces}
        # Opened now, while the manifest is held: a later compaction may unlink the files, not the mappings.
        for space, name, rows, digest, data in catalog.all(
            "SELECT space, segment, rows, digest, data FROM segments ORDER BY rowid"
        ):
            try:
                self.segments[names[space]].append(Segment(folder / "segments", name, rows, digest, data))
            except Corrupt as error:
                self.broken[names[space]] = error
            except FileNotFoundError as error:
                if patient:
                    raise
                self.broken[names[space]] = Corrupt(f"{error.filename} is missing. Run: inlay doctor {folder}")
        dead = [row[0] for row in catalog.all("SELECT chunk FROM tombstones ORDER BY chunk")]
        self.tombstones = np.array(dead, dtype=np.int64)
        self._views: dict[str, Any] = {}

    def view(self, name: str) -> Any:
        """The view of a space: `LexicalView`, `DenseView`, `SparseView` or `MultiView`."""
        if name in self.broken:
            raise self.broken[name]
        if name not in self._views:
            self._views[name] = self.over(name, self.segments[name])
        return self._views[name]

    def over(self, name: str, segments: Sequence[Segment]) -> Any:
        """A view of a space over some segments."""
        stored = self.spaces[name]
        if name == LEXICAL:
            settings = stored.spec or {}
            return LexicalView(segments, self.tombstones, stored.space, settings["k1"], settings["b"])
        view: Any = {"dense": DenseView, "sparse": SparseView, "multi": MultiView}[stored.space.kind]
        return view(segments, self.tombstones, stored.space)

    def __len__(self) -> int:
        return self._catalog.one("SELECT count(*) FROM documents")

    def chunks(self) -> int:
        """How many passages the documents have."""
        return self._catalog.one("SELECT count(*) FROM chunks")

    def pending(self, name: str) -> int:
        """How many passages still wait for their row in a space."""
        return self._catalog.one("SELECT count(*) FROM pending WHERE space=?", (self.spaces[name].number,))

    def allowed(self, where: Mapping[str, Any] | None) -> np.ndarray | None:
        """Chunks of the documents that a filter lets through, ascending; None where there is no filter."""
        if where is None:
            return None
        condition, parameters = compile_filter(where)
        sql = f"SELECT chunk FROM documents JOIN chunks USING(doc) WHERE {condition} ORDER BY chunk"
        return np.array([row[0] for row in self._catalog.all(sql, parameters)], dtype=np.int64)

    def passages(self, chunks: Iterable[int]) -> dict[int, Passage]:
        """Text and metadata of chunks, by chunk number."""
        sql = (
            "SELECT chunk, number, line, last_line, heading, id, metadata, substr(text, start + 1, stop - start) "
            "FROM chunks JOIN documents USING(doc) WHERE chunk IN (SELECT value FROM json_each(?))"
        )
        found = {}
        for chunk, number, line, last, heading, name, metadata, text in self._catalog.all(sql, (_list(chunks),)):
            found[chunk] = Passage(chunk, number, line, last, heading, name, json.loads(metadata), text)
        return found

    def documents_of(self, chunks: Iterable[int]) -> dict[int, int]:
        """Document number of each chunk."""
        sql = "SELECT chunk, doc FROM chunks WHERE chunk IN (SELECT value FROM json_each(?))"
        return dict(self._catalog.all(sql, (_list(chunks),)))

    def document(self, name: str) -> Document | None:
        """A document by its id."""
        row = self._catalog.one("SELECT id, text, metadata FROM documents WHERE id=?", (name,))
        return Document(row[0], row[1], json.loads(row[2])) if row else None

    def documents(self) -> Iterable[Document]:
        """All documents in order of addition."""
        last = -1
        # By key rather than by one open cursor: the caller may write while iterating.
        while page := self._catalog.all(
            "SELECT doc, id, text, metadata FROM documents WHERE doc>? ORDER BY doc LIMIT 256", (last,)
        ):
            for doc, name, text, metadata in page:
                yield Document(name, text, json.loads(metadata))
                last = doc


def _list(chunks: Iterable[int]) -> str:
    return json.dumps([int(chunk) for chunk in chunks])
