"""Writing: documents in, documents out. Every step is one transaction.

A batch is stored whole or not at all: its segments are written and synced first, unknown to anybody; one commit then
makes documents, chunks and segments exist together. Spaces whose encoder is expensive are not waited for: their
chunks are listed as pending in the same commit and get their rows later, batch by batch, from where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from inlay.collection.brought import Brought
from inlay.collection.catalog import Catalog
from inlay.collection.filters import flatten
from inlay.collection.intake import as_json
from inlay.collection.rows import rows_of
from inlay.collection.segment import Stored, store, sweep
from inlay.collection.snapshot import LEXICAL, StoredSpace, embeddable, searchable
from inlay.errors import BadInput, InlayError
from inlay.io import sync_folder
from inlay.types import Chunk, Document

__all__ = ["Failure", "Report", "Writer"]

CHUNKS = "chunks"


@dataclass(frozen=True, slots=True)
class Failure:
    """A document that was not stored, and why."""

    id: str
    reason: str


@dataclass
class Report:
    """What an addition or update did, by number of documents."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    failed: list[Failure] = field(default_factory=list)

    def __repr__(self) -> str:
        parts = [f"{self.added} added", f"{self.updated} updated", f"{self.unchanged} unchanged"]
        if self.failed:
            parts.append(f"{len(self.failed)} failed (first: {self.failed[0].id}: {self.failed[0].reason})")
        return f"Report({', '.join(parts)})"


@dataclass(slots=True)
class _New:
    """A document of the batch with what has been decided about it."""

    document: Document
    metadata: str
    hash: bytes
    chunks: list[tuple[Chunk, bytes]]
    row: int  # of the vectors, where the document brings one
    doc: int = -1
    replaces: bool = False
    numbers: list[int] = field(default_factory=list)  # chunk numbers, kept or new
    fresh: list[bool] = field(default_factory=list)  # whether each chunk needs rows


def _at_once(encoder: Any, fresh: int) -> bool:
    """Whether so many new passages are encoded with the addition, not later."""
    return not getattr(encoder, "expensive", False) or fresh <= getattr(encoder, "at_once", 0)


class Writer:
    """Writes to a collection whose lock its owner holds.

    Args:
        catalog: the collection's catalog.
        folder: its folder.
        encoders: gives, when rows are to be made, name of the space -> what makes them (an `Analyzer` for the
            lexical space).
        cut: text and metadata -> chunks, for documents that bring none.
    """

    def __init__(
        self,
        catalog: Catalog,
        folder: Path,
        encoders: Callable[[], dict[str, Any]],
        cut: Callable[[Document], Sequence[Chunk]],
    ) -> None:
        self._catalog, self.encoders, self._cut = catalog, encoders, cut
        self._segments = folder / "segments"
        try:
            if not self._segments.is_dir():
                self._segments.mkdir(exist_ok=True)
                sync_folder(folder)
            self.clean()
        except OSError as error:
            raise InlayError(f"cannot write to {folder}: {error.strerror or error}") from error

    def clean(self) -> int:
        """Remove the remains of unfinished writes."""
        return sweep(self._segments, {row[0] for row in self._catalog.all("SELECT segment FROM segments")})

    def put(
        self,
        documents: Sequence[Document],
        vectors: Brought | None,
        *,
        replace: bool,
        spaces: dict[str, StoredSpace],
        given: str | None,
        strict: bool = False,
        next_doc: int = 1,
    ) -> Report:
        """Store a batch in one transaction.

        Args:
            documents: valid documents.
            vectors: rows of the space `given`, one per document, or None.
            replace: update documents that exist; otherwise they fail as duplicates.
            spaces: the collection's spaces.
            given: name of the space that `vectors` belong to.
            strict: store nothing and raise if any document fails.
            next_doc: document numbers below it are spoken for.
        """
        report = Report()
        batch = self._plan(documents, vectors, replace, report)
        if strict and report.failed:
            raise BadInput(f"document {report.failed[0].id}: {report.failed[0].reason}")
        if not batch:
            return report
        after, next_chunk, dead = self._number(
            batch, self._catalog.get("next_doc", 1), self._catalog.get("next_chunk", 1)
        )
        fresh = sum(sum(item.fresh) for item in batch)
        # A space without its encoder at hand (a model that was passed as an object) is owed its rows like a slow one.
        encoders = {name: e for name, e in self.encoders().items() if _at_once(e, fresh)}
        lazy = [spaces[name] for name in spaces if name not in encoders and name != given]
        inputs = self._inputs(batch, encoders, given, vectors)
        made = self._store(inputs, {name: (spaces[name], encoders.get(name)) for name in inputs if name != CHUNKS})
        self._commit(batch, dead, made, lazy, max(after, next_doc), next_chunk)
        report.added += sum(not item.replaces for item in batch)
        report.updated += sum(item.replaces for item in batch)
        return report

    def _number(self, batch: Sequence[_New], next_doc: int, next_chunk: int) -> tuple[int, int, list[int]]:
        """Give documents and passages their numbers.

        Returns:
            (next document, next chunk, chunks that are replaced).
        """
        dead: list[int] = []
        for item in batch:
            if item.replaces:
                next_chunk = self._match_chunks(item, next_chunk, dead)
            else:
                item.doc, next_doc = next_doc, next_doc + 1
                item.numbers = list(range(next_chunk, next_chunk + len(item.chunks)))
                item.fresh = [True] * len(item.chunks)
                next_chunk += len(item.chunks)
        return next_doc, next_chunk, dead

    @staticmethod
    def _inputs(
        batch: Sequence[_New], encoders: dict[str, Any], given: str | None, vectors: Brought | None
    ) -> dict[str, Any]:
        """What the rows of each space are made from, in order of chunk number, and these numbers under `CHUNKS`."""
        fresh = sorted(
            (
                (number, item, chunk)
                for item in batch
                for (chunk, _), number, is_fresh in zip(item.chunks, item.numbers, item.fresh)
                if is_fresh
            ),
            key=itemgetter(0),
        )
        inputs: dict[str, Any] = {CHUNKS: np.array([number for number, _, _ in fresh], dtype=np.int64)}
        for name in encoders:
            if name != given:
                of = searchable if name == LEXICAL else embeddable
                inputs[name] = [
                    of(i.document.metadata, c.heading, i.document.text[c.start : c.stop]) for _, i, c in fresh
                ]
        if given is not None and vectors is not None and fresh:
            inputs[given] = vectors.take([item.row for _, item, _ in fresh]).rows
        return inputs

    def _store(
        self, inputs: dict[str, Any], makers: dict[str, tuple[StoredSpace, Any]]
    ) -> list[tuple[StoredSpace, Stored]]:
        """Make and store the segments of a batch, the spaces side by side: hashing, writing and syncing hold no GIL."""
        chunks = inputs[CHUNKS]
        if not len(chunks):
            return []

        def segment(name: str) -> tuple[StoredSpace, Stored]:
            space, encoder = makers[name]
            return space, store(self._segments, {**rows_of(space, encoder, inputs[name]), "chunks": chunks})

        with ThreadPoolExecutor(len(makers)) as pool:
            return [future.result() for future in [pool.submit(segment, name) for name in makers]]

    def _commit(
        self,
        batch: Sequence[_New],
        dead: Sequence[int],
        made: Sequence[tuple[StoredSpace, Stored]],
        lazy: Sequence[StoredSpace],
        next_doc: int,
        next_chunk: int,
    ) -> None:
        catalog = self._catalog
        with catalog.write():
            gone = [item.doc for item in batch if item.replaces]
            self._forget_fields(gone)
            self._bury(dead)
            catalog.many("DELETE FROM documents WHERE doc=?", [(doc,) for doc in gone])
            catalog.many("DELETE FROM chunks WHERE doc=?", [(doc,) for doc in gone])
            catalog.many(
                "INSERT INTO documents VALUES(?,?,?,?,?)",
                [(i.doc, i.document.id, i.hash, i.metadata, i.document.text) for i in batch],
            )
            catalog.many(
                "INSERT INTO chunks VALUES(?,?,?,?,?,?,?,?,?)",
                [
                    (number, i.doc, n, c.start, c.stop, c.line, c.last_line, c.heading, mark)
                    for i in batch
                    for n, ((c, mark), number) in enumerate(zip(i.chunks, i.numbers))
                ],
            )
            catalog.many(
                "INSERT OR IGNORE INTO fields VALUES(?,?,?)",
                [(name, value, i.doc) for i in batch for name, value in flatten(i.document.metadata)],
            )
            fresh = [number for i in batch for number, is_fresh in zip(i.numbers, i.fresh) if is_fresh]
            for space in lazy:
                catalog.many("INSERT INTO pending VALUES(?,?)", [(space.number, number) for number in fresh])
            for space, stored in made:
                catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", stored.record(space.number))
            catalog.set("next_doc", next_doc)
            catalog.set("next_chunk", next_chunk)

    def _plan(
        self, documents: Sequence[Document], vectors: Brought | None, replace: bool, report: Report
    ) -> list[_New]:
        known = {
            row[0]: row[1:]
            for row in self._catalog.all(
                "SELECT id, doc, hash FROM documents WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps([document.id for document in documents]),),
            )
        }
        batch: dict[str, _New] = {}
        for i, document in enumerate(documents):
            if document.id in batch and not replace:
                report.failed.append(Failure(document.id, "the id occurs twice in this addition; ids must be unique"))
                continue
            if document.id in known and not replace:
                report.failed.append(Failure(document.id, "the id exists already; use update() to replace it"))
                continue
            vector = None if vectors is None else vectors.mark(i)
            cut = document.chunks
            if cut is None:
                cut = self._cut(document) if vector is None else [Chunk(0, len(document.text))]
            problem = _bad_chunks(cut, len(document.text), whole=vector is not None)
            if problem:
                report.failed.append(Failure(document.id, problem))
                continue
            stored = as_json(document.metadata)
            passages = "" if document.chunks is None else repr(list(document.chunks))
            mark = _digest(document.text, stored, passages, vector or b"")
            if document.id in known and known[document.id][1] == mark:
                report.unchanged += 1
                batch.pop(document.id, None)
                continue
            if vector is not None:
                marks = [(c, mark) for c in cut]
            else:
                # A passage keeps its rows as long as everything that its rows were made from is the same.
                head = json.dumps([document.metadata.get(name) for name in ("title", "path", "kind")])
                marks = [(c, _digest(document.text[c.start : c.stop], c.heading, head)) for c in cut]
            item = _New(document, stored, mark, marks, i)
            if document.id in known:
                item.doc, item.replaces = known[document.id][0], True
            batch[document.id] = item
        return list(batch.values())

    def _match_chunks(self, item: _New, next_chunk: int, dead: list[int]) -> int:
        """Keep the rows of passages that did not change; the others get new numbers and the old ones are buried."""
        stock: dict[bytes, list[int]] = defaultdict(list)
        for number, mark in self._catalog.all("SELECT chunk, hash FROM chunks WHERE doc=? ORDER BY chunk", (item.doc,)):
            stock[mark].append(number)
        for _, mark in item.chunks:
            if stock.get(mark):
                item.numbers.append(stock[mark].pop(0))
                item.fresh.append(False)
            else:
                item.numbers.append(next_chunk)
                item.fresh.append(True)
                next_chunk += 1
        dead += [number for left in stock.values() for number in left]
        return next_chunk

    def _forget_fields(self, docs: Iterable[int]) -> None:
        for doc in docs:
            metadata = self._catalog.one("SELECT metadata FROM documents WHERE doc=?", (doc,))
            pairs = flatten(json.loads(metadata)) if metadata else []
            self._catalog.many(
                "DELETE FROM fields WHERE name=? AND value=? AND doc=?", [(name, value, doc) for name, value in pairs]
            )

    def _bury(self, chunks: Sequence[int]) -> None:
        self._catalog.many("INSERT OR IGNORE INTO tombstones VALUES(?)", [(chunk,) for chunk in chunks])
        self._catalog.many("DELETE FROM pending WHERE chunk=?", [(chunk,) for chunk in chunks])

    def remove(self, ids: Sequence[str]) -> int:
        """Delete documents by id in one transaction; ids that do not exist are passed over.

        Returns:
            How many documents were deleted.
        """
        catalog = self._catalog
        with catalog.write():
            docs = [
                row[0]
                for row in catalog.all(
                    "SELECT doc FROM documents WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(list(ids)),)
                )
            ]
            if docs:
                chunks = catalog.all(
                    "SELECT chunk FROM chunks WHERE doc IN (SELECT value FROM json_each(?))", (json.dumps(docs),)
                )
                self._forget_fields(docs)
                self._bury([row[0] for row in chunks])
                catalog.many("DELETE FROM chunks WHERE doc=?", [(doc,) for doc in docs])
                catalog.many("DELETE FROM documents WHERE doc=?", [(doc,) for doc in docs])
        return len(docs)


def _digest(*parts: str | bytes) -> bytes:
    data = [part.encode() if isinstance(part, str) else part for part in parts]
    digest = hashlib.blake2b(b"%s;" % ",".join([str(len(part)) for part in data]).encode(), digest_size=16)
    for part in data:
        digest.update(part)
    return digest.digest()


def _bad_chunks(chunks: Sequence[Chunk], length: int, *, whole: bool) -> str:
    if whole and len(chunks) != 1:
        return f"a document that brings its vector is one passage, it has {len(chunks)}"
    last = 0
    for chunk in chunks:
        if not last <= chunk.start < chunk.stop <= length and not (whole and length == 0):
            return f"its passage {chunk.start}:{chunk.stop} is empty, overlaps another or leaves its text"
        last = chunk.start if whole else chunk.stop
    return ""
