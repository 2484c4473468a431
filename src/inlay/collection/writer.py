"""Writing: documents in, documents out, rows made, segments merged. Every step is one transaction.

A batch is stored whole or not at all: its segments are written and synced first, unknown to anybody; one commit then
makes documents, chunks and segments exist together. Spaces whose encoder is expensive are not waited for: their
chunks are listed as pending in the same commit and get their rows later, batch by batch, from where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inlay.collection.catalog import Catalog
from inlay.collection.filters import flatten
from inlay.collection.intake import as_json
from inlay.collection.merge import merge_dense, merge_postings
from inlay.collection.rows import rows_of
from inlay.collection.segment import Segment, Stored, store, sweep
from inlay.collection.snapshot import LEXICAL, Snapshot, StoredSpace, embeddable, searchable
from inlay.errors import BadInput, SpaceMismatch
from inlay.types import Chunk, Document

__all__ = ["Failure", "Report", "Writer"]

FAN = 8  # segments of one size class before they are merged into one of the next
TOO_DEAD = 0.3  # share of deleted rows at which a segment is rewritten


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
    hash: bytes
    chunks: list[tuple[Chunk, bytes]]
    vector: np.ndarray | None
    doc: int = -1
    replaces: bool = False
    numbers: list[int] = field(default_factory=list)  # chunk numbers, kept or new
    fresh: list[bool] = field(default_factory=list)  # whether each chunk needs rows


class Writer:
    """Writes to a collection whose lock its owner holds.

    Args:
        catalog: the collection's catalog.
        folder: its folder.
        encoders: name of the space -> what makes its rows (an `Analyzer` for the lexical space).
        cut: text and metadata -> chunks, for documents that bring none.
    """

    def __init__(
        self,
        catalog: Catalog,
        folder: Path,
        encoders: dict[str, Any],
        cut: Callable[[Document], Sequence[Chunk]],
    ) -> None:
        self._catalog, self._folder, self._encoders, self._cut = catalog, folder, encoders, cut
        self._segments = folder / "segments"
        self._segments.mkdir(exist_ok=True)
        self.clean()

    def clean(self) -> int:
        """Remove the remains of unfinished writes."""
        return sweep(self._segments, {row[0] for row in self._catalog.all("SELECT segment FROM segments")})

    # -- documents -----------------------------------------------------------------------------------------------

    def put(
        self,
        documents: Sequence[Document],
        vectors: np.ndarray | None,
        *,
        replace: bool,
        spaces: dict[str, StoredSpace],
        given: str | None,
    ) -> Report:
        """Store a batch in one transaction.

        Args:
            documents: valid documents.
            vectors: float32 [n, dim] for the space `given`, or None.
            replace: update documents that exist; otherwise they fail as duplicates.
            spaces: the collection's spaces.
            given: name of the space that `vectors` belong to.
        """
        report = Report()
        batch = self._plan(documents, vectors, replace, report)
        if not batch:
            return report
        catalog = self._catalog
        next_doc, next_chunk = catalog.get("next_doc", 1), catalog.get("next_chunk", 1)
        dead: list[int] = []
        for item in batch:
            if item.replaces:
                next_chunk = self._match_chunks(item, next_chunk, dead)
            else:
                item.doc, next_doc = next_doc, next_doc + 1
                item.numbers = list(range(next_chunk, next_chunk + len(item.chunks)))
                item.fresh = [True] * len(item.chunks)
                next_chunk += len(item.chunks)

        numbers, lexical, dense, rows = [], [], [], []
        lazy = [name for name, coder in self._encoders.items() if getattr(coder, "expensive", False) and name != given]
        eager = [name for name in self._encoders if name not in lazy and name not in (LEXICAL, given)]
        for item in batch:
            metadata, text = item.document.metadata, item.document.text
            for (chunk, _), number, fresh in zip(item.chunks, item.numbers, item.fresh):
                if fresh:
                    body = text[chunk.start : chunk.stop]
                    numbers.append(number)
                    lexical.append(searchable(metadata, chunk.heading, body))
                    if eager:
                        dense.append(embeddable(metadata, chunk.heading, body))
                    if item.vector is not None:
                        rows.append(item.vector)
        made: list[tuple[StoredSpace, Stored]] = []
        if numbers:
            chunks = np.array(numbers, dtype=np.int64)
            order = np.argsort(chunks)
            chunks = chunks[order]
            inputs = {name: dense for name in eager} | ({LEXICAL: lexical} if LEXICAL in self._encoders else {})
            for name, texts in inputs.items():
                ordered = [texts[i] for i in order.tolist()]
                arrays = rows_of(spaces[name], self._encoders[name], ordered)
                made.append((spaces[name], store(self._segments, {**arrays, "chunks": chunks})))
            if given is not None:
                arrays = rows_of(spaces[given], None, np.stack(rows)[order])
                made.append((spaces[given], store(self._segments, {**arrays, "chunks": chunks})))

        with catalog.write():
            gone = [item.doc for item in batch if item.replaces]
            self._forget_fields(gone)
            self._bury(dead)
            catalog.many("DELETE FROM documents WHERE doc=?", [(doc,) for doc in gone])
            catalog.many("DELETE FROM chunks WHERE doc=?", [(doc,) for doc in gone])
            catalog.many(
                "INSERT INTO documents VALUES(?,?,?,?,?)",
                [(i.doc, i.document.id, i.hash, as_json(i.document.metadata), i.document.text) for i in batch],
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
            for name in lazy:
                catalog.many("INSERT INTO pending VALUES(?,?)", [(spaces[name].number, n) for n in numbers])
            for space, stored in made:
                catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", stored.record(space.number))
            catalog.set("next_doc", next_doc)
            catalog.set("next_chunk", next_chunk)
        report.added += sum(not item.replaces for item in batch)
        report.updated += sum(item.replaces for item in batch)
        return report

    def _plan(
        self, documents: Sequence[Document], vectors: np.ndarray | None, replace: bool, report: Report
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
            vector = None if vectors is None else vectors[i]
            cut = document.chunks
            if cut is None:
                cut = self._cut(document) if vector is None else [Chunk(0, len(document.text))]
            problem = _bad_chunks(cut, len(document.text), whole=vector is not None)
            if problem:
                report.failed.append(Failure(document.id, problem))
                continue
            extra = b"" if vector is None else vector.tobytes()
            mark = _digest(document.text, as_json(document.metadata), repr(list(document.chunks or ())), extra)
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
            item = _New(document, mark, marks, vector)
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

    # -- rows ----------------------------------------------------------------------------------------------------

    def waiting(self, space: StoredSpace, limit: int) -> list[tuple[int, str]]:
        """Pending chunks of a space with the text to encode, oldest first."""
        of = searchable if space.name == LEXICAL else embeddable
        return [
            (chunk, of(json.loads(metadata), heading, text))
            for chunk, metadata, heading, text in self._catalog.all(
                "SELECT chunk, metadata, heading, substr(text, start + 1, stop - start) FROM pending "
                "JOIN chunks USING(chunk) JOIN documents USING(doc) WHERE space=? ORDER BY chunk LIMIT ?",
                (space.number, limit),
            )
        ]

    def keep(self, space: StoredSpace, chunks: np.ndarray, vectors: Any) -> None:
        """Store rows of pending chunks (ascending) that somebody has encoded."""
        arrays = rows_of(space, None, vectors)
        stored = store(self._segments, {**arrays, "chunks": chunks})
        with self._catalog.write():
            still = {
                row[0]
                for row in self._catalog.all(
                    "SELECT chunk FROM pending WHERE space=? AND chunk IN (SELECT value FROM json_each(?))",
                    (space.number, json.dumps(chunks.tolist())),
                )
            }
            if len(still) != len(chunks):
                raise BadInput("some of these chunks have a row already")
            self._catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", stored.record(space.number))
            self._catalog.many(
                "DELETE FROM pending WHERE space=? AND chunk=?", [(space.number, chunk) for chunk in chunks.tolist()]
            )

    def fill(self, space: StoredSpace, batch: int) -> int:
        """Encode one batch of pending chunks. Returns how many there were."""
        waiting = self.waiting(space, batch)
        if not waiting:
            return 0
        encoder = self._encoders[space.name]
        chunks = np.array([chunk for chunk, _ in waiting], dtype=np.int64)
        texts = [text for _, text in waiting]
        arrays = rows_of(space, encoder, texts)
        stored = store(self._segments, {**arrays, "chunks": chunks})
        with self._catalog.write():
            self._catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", stored.record(space.number))
            self._catalog.many(
                "DELETE FROM pending WHERE space=? AND chunk=?", [(space.number, chunk) for chunk in chunks.tolist()]
            )
        return len(waiting)

    # -- segments ------------------------------------------------------------------------------------------------

    def compact(self, *, everything: bool = False) -> int:
        """Merge segments: those of a size class that has `FAN` of them, and those with many deleted rows.

        Args:
            everything: merge each space into one segment.

        Returns:
            How many segments were replaced.
        """
        replaced = 0
        while step := self._compact_once(everything):
            replaced += step
            if everything:
                break
        if replaced:
            self._unbury()
            self.clean()
        return replaced

    def _compact_once(self, everything: bool) -> int:
        snapshot = Snapshot(self._catalog, self._folder)
        replaced = 0
        for name, segments in snapshot.segments.items():
            alive = [self._alive(segment, snapshot.tombstones) for segment in segments]
            groups = [list(range(len(segments)))] if everything else _groups(segments, alive)
            for group in groups:
                clean = all(alive[i].all() for i in group)
                if not group or (everything and len(group) == 1 and clean):
                    continue
                self._replace(snapshot.spaces[name], [segments[i] for i in group], [alive[i] for i in group])
                replaced += len(group)
        return replaced

    @staticmethod
    def _alive(segment: Segment, tombstones: np.ndarray) -> np.ndarray:
        alive = np.ones(segment.rows, dtype=bool)
        alive[segment.rows_of(tombstones)[1]] = False
        return alive

    def _replace(self, space: StoredSpace, old: list[Segment], alive: list[np.ndarray]) -> None:
        for segment in old:
            segment.pack.verify()  # a merge must not launder damaged bytes into fresh checksums
        stored = None
        if any(mask.any() for mask in alive):
            merge = merge_dense if space.space.kind == "dense" else merge_postings
            stored = store(self._segments, merge(old, alive))
        with self._catalog.write():
            self._catalog.many("DELETE FROM segments WHERE segment=?", [(segment.name,) for segment in old])
            if stored:
                self._catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", stored.record(space.number))

    def _unbury(self) -> None:
        """Forget tombstones of chunks that no segment holds any more."""
        snapshot = Snapshot(self._catalog, self._folder)
        if not len(snapshot.tombstones):
            return
        held = [s.chunks[s.rows_of(snapshot.tombstones)[1]] for group in snapshot.segments.values() for s in group]
        free = np.setdiff1d(snapshot.tombstones, np.concatenate(held) if held else [])
        if len(free):
            with self._catalog.write():
                self._catalog.many("DELETE FROM tombstones WHERE chunk=?", [(chunk,) for chunk in free.tolist()])


def _groups(segments: Sequence[Segment], alive: Sequence[np.ndarray]) -> list[list[int]]:
    groups = []
    sizes = [int(max(segment.rows, 1)).bit_length() // 3 for segment in segments]
    for size, count in Counter(sizes).items():
        if count >= FAN:
            # A run of small additions is folded together with everything smaller than it.
            groups.append([i for i, s in enumerate(sizes) if s <= size])
            break
    taken = {i for group in groups for i in group}
    for i, mask in enumerate(alive):
        if i not in taken and len(mask) and 1 - mask.mean() > TOO_DEAD:
            groups.append([i])
    return groups


def _digest(*parts: str | bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
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


def check_vectors(vectors: Any, count: int, dim: int) -> np.ndarray:
    """Vectors that people bring, as float32 [n, dim].

    Raises:
        BadInput: not numbers, not two-dimensional, or not one row per document.
        SpaceMismatch: another width than the collection's vectors.
    """
    try:
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"vectors must be numbers in rows of equal length: {error}") from None
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise BadInput(f"vectors must have the shape [documents, dim], got {list(rows.shape)}")
    if len(rows) != count:
        raise BadInput(f"got {len(rows)} vectors for {count} documents")
    if dim and rows.shape[1] != dim:
        raise SpaceMismatch(f"the vectors have {rows.shape[1]} dimensions, the collection's have {dim}")
    return rows
