"""The collection: what people hold in their hands."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inlay.collection import retrieval
from inlay.collection.arranged_rows import configuration_of, is_arranged
from inlay.collection.brought import Brought
from inlay.collection.compaction import compact
from inlay.collection.intake import as_document, batches, check_ids, each, name_of
from inlay.collection.settings import Settings
from inlay.collection.snapshot import DENSE, LEXICAL
from inlay.collection.upkeep import Upkeep
from inlay.collection.writer import Failure, Report
from inlay.errors import BadInput
from inlay.types import Document, Encoder, Hit, SpaceMap

if TYPE_CHECKING:
    pass

__all__ = ["Collection", "open"]

Mode = Literal["hybrid", "dense", "lexical"]


def open(
    path: str | Path,
    *,
    encoder: str | Encoder | Literal[False] | None = None,
    mode: Literal["a", "r"] = "a",
    dtype: Literal["float32", "float16", "int8"] = "float32",
    chunk: int | None = 1600,
    metric: Literal["cosine", "dot", "l2"] = "cosine",
    space_map: SpaceMap | None = None,
) -> Collection:
    """Create or open a collection.

    Args:
        path: its directory; by convention it ends in `.inlay`.
        encoder: a name (`"numen"`, `"onnx:PATH"`, …), an `Encoder`, or False for none. Default: the one the
            collection was made with; for a new one, the best that needs no download.
        mode: `"a"` reads and writes (the right to write is taken at the first write), `"r"` only reads.
        dtype: how a new collection stores dense vectors.
        chunk: longest passage, in characters, that a new collection cuts documents into; None keeps them whole.
        metric: metric for vectors that you bring yourself (`add(vectors=…)`).
        space_map: maps queries of `encoder` into the space of the stored vectors, when those are of another model.

    Raises:
        BadInput: the path is something else.
        SpaceMismatch: `encoder` differs from the one that made the stored vectors, and there is no `space_map`.
        Corrupt: stored bytes do not verify.
    """
    return Collection(path, encoder=encoder, mode=mode, dtype=dtype, chunk=chunk, metric=metric, space_map=space_map)


class Collection(Upkeep):
    """Documents with their passages, vectors and indexes in one directory. Make one with `inlay.open`.

    Reads see one state: that of the first read, of the last `refresh()`, or after one's own last write. One process
    writes at a time; any number read. A collection may be used from several threads.
    """

    # -- documents -----------------------------------------------------------------------------------------------

    def add(
        self,
        documents: Any = None,
        *,
        vectors: Any = None,
        ids: Sequence[str] | None = None,
        on_error: Literal["skip", "raise"] = "skip",
        progress: bool = False,
    ) -> Report:
        """Add documents; what the report counts as added is durable when this returns.

        Args:
            documents: strings, dictionaries with `text` (and `id`; other keys are metadata), dataclasses,
                `Document`s, or a pandas / pyarrow table.
            vectors: bring your own, one row per document: float32 [n, dim]; sparse rows (`Sparse` or scipy's CSR); or
                several vectors each (`Ragged`, or a list of arrays [tokens, dim]), scored by MaxSim. Without
                `documents` they stand alone.
            ids: ids, one per document or vector, where the documents do not carry them.
            on_error: a bad document is reported and the rest goes in (`"skip"`), or nothing of its batch does
                and the call raises (`"raise"`).
            progress: show a progress bar.

        Raises:
            BadInput: arguments of the wrong shape; with `on_error="raise"` also a bad document.
            Locked: another process is writing.
        """
        return self._put(documents, vectors, ids, on_error, progress, replace=False)

    def update(
        self,
        documents: Any = None,
        *,
        vectors: Any = None,
        ids: Sequence[str] | None = None,
        on_error: Literal["skip", "raise"] = "skip",
        progress: bool = False,
    ) -> Report:
        """Insert documents or replace those of the same id; passages that did not change keep their vectors."""
        return self._put(documents, vectors, ids, on_error, progress, replace=True)

    def _put(
        self, documents: Any, vectors: Any, ids: Sequence[str] | None, on_error: str, progress: bool, *, replace: bool
    ) -> Report:
        if on_error not in ("skip", "raise"):
            raise BadInput(f"on_error is 'skip' or 'raise', got {on_error!r}")
        items, rows = self._pair(documents, vectors, ids)
        total = Report()
        with self._mutex, self._writing() as writer, _without_collector():
            given = None if rows is None else self._given_space(rows)
            if rows is None and not self._can_encode():
                raise BadInput(
                    f"the documents of {self.path} bring their own vectors: pass vectors=, one row per document"
                )
            bar = _bar(items, progress)
            start = 0
            finite = None if rows is None else rows.finite()
            for batch in batches(bar):
                report, good, kept = Report(), [], []
                serial = self._catalog.get("next_doc", 1)
                for i, item in enumerate(batch):
                    try:
                        name = f"#{serial + i}" if ids is None else ids[start + i]
                        good.append(self._valid(item, name, None if finite is None else bool(finite[start + i])))
                        kept.append(start + i)
                    except BadInput as error:
                        report.failed.append(Failure(name_of(item, ids, start + i), str(error)))
                if on_error == "raise" and report.failed:
                    raise BadInput(f"document {report.failed[0].id}: {report.failed[0].reason}")
                few = None if rows is None else rows.take(kept)
                done = writer.put(
                    good,
                    few,
                    replace=replace,
                    spaces=self._snapshot.spaces,
                    given=given,
                    strict=on_error == "raise",
                    # A number that was offered as an id is never offered again, even if its document failed.
                    next_doc=serial + len(batch),
                )
                total.added += done.added
                total.updated += done.updated
                total.unchanged += done.unchanged
                total.failed += report.failed + done.failed
                start += len(batch)
                self._state = None
            compact(self._catalog, self.path)
        return total

    def _pair(self, documents: Any, vectors: Any, ids: Any) -> tuple[Any, Brought | None]:
        if ids is not None and (isinstance(ids, str) or not isinstance(ids, Sequence)):
            raise BadInput(f"ids must be a list of strings, got {type(ids).__name__}")
        if vectors is None:
            if documents is None:
                raise BadInput("nothing to add: pass documents, vectors, or both")
            items: Any = each(documents)
            if ids is not None:
                items = list(items)
                if len(ids) != len(items):
                    raise BadInput(f"got {len(ids)} ids for {len(items)} documents")
            return items, None
        rows = Brought(vectors)
        items = [None] * len(rows) if documents is None else list(each(documents))
        if len(rows) != len(items):
            raise BadInput(f"got {len(rows)} vectors for {len(items)} documents")
        if ids is not None and len(ids) != len(items):
            raise BadInput(f"got {len(ids)} ids for {len(items)} documents")
        return items, rows

    def _valid(self, item: Any, name: Any, finite: bool | None) -> Document:
        """An item as a document; `finite` says so of the vector it brings, None that it brings none."""
        if finite is not None:
            if not finite:
                raise BadInput("its vector has NaN or infinite elements")
            if item is None:
                return as_document(Document(name, ""), name, bare=True)
        return as_document(item, name)

    def delete(self, ids: Sequence[str]) -> int:
        """Delete documents by id. Returns how many there were; unknown ids are passed over."""
        if isinstance(ids, str) or not isinstance(ids, Sequence):
            raise BadInput(f"delete takes a list of ids, got {type(ids).__name__}")
        check_ids(ids)
        with self._mutex, self._writing() as writer:
            count = writer.remove(ids)
            self._state = None
            compact(self._catalog, self.path)
        return count

    def get(self, id: str) -> Document | None:
        """The document of that id, or None."""
        check_ids([id])
        with self._mutex:
            return self._snapshot.document(id)

    def __len__(self) -> int:
        with self._mutex:
            return len(self._snapshot)

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self.get(id) is not None

    def __iter__(self) -> Iterator[Document]:
        with self._mutex:
            documents = iter(self._snapshot.documents())
        while True:
            with self._mutex:  # for a page at a time: other threads may use the connection in between
                page = list(islice(documents, 256))
            if not page:
                return
            yield from page

    # -- search --------------------------------------------------------------------------------------------------

    def search(
        self,
        query: str | None = None,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        mode: Mode | None = None,
        per: Literal["document", "chunk"] = "document",
        vector: Any = None,
        rerank: int = 50,
    ) -> list[Hit]:
        """The k best answers, best first.

        Args:
            query: text.
            k: how many.
            where: a filter over metadata, e.g. `{"year": {"$gte": 2020}, "lang": {"$in": ["en", "de"]}}`.
            mode: `"lexical"` (BM25), `"dense"` (vectors) or `"hybrid"` (both, fused); default: hybrid where the
                collection has vectors and can make one for the query.
            per: the best passage of each document, or every passage for itself.
            vector: the query's vector, where you bring your own: [dim], one sparse row, or [tokens, dim].
            rerank: with an expensive encoder, how many of the best lexical candidates get a vector on demand.

        Raises:
            BadInput: an empty query, a malformed filter, a wrong mode.
            SpaceMismatch: a vector of another dimension.
        """
        with self._mutex:
            return retrieval.search(self, query, k, where=where, mode=mode, per=per, vector=vector, rerank=rerank)

    def vectors(self) -> tuple[list[tuple[str, int]], np.ndarray]:
        """Every stored dense vector.

        Returns:
            ((document id, number of the passage) of each row, float32 [n, dim]).
        """
        with self._mutex:
            if DENSE not in self._snapshot.spaces or self._snapshot.spaces[DENSE].space.kind != "dense":
                raise BadInput(
                    f"{self.path} has no dense rows to export: its vectors are sparse, or several a passage, or none"
                )
            chunks, rows = retrieval.dense_view(self, self._snapshot).vectors()
            passages = self._snapshot.passages(chunks)
            return [(passages[c].id, passages[c].number) for c in chunks.tolist()], rows

    def passages_with_vectors(self) -> np.ndarray:
        """Numbers of the passages that have a dense row, int64, ascending."""
        with self._mutex:
            found: np.ndarray = self._snapshot.view(DENSE).covered()
        return found

    def nearest_passages(self, vector: np.ndarray, k: int) -> np.ndarray:
        """Numbers of the passages nearest to a dense vector [dim] of the collection's space, best first, int64."""
        with self._mutex:
            found: np.ndarray = retrieval.dense_view(self, self._snapshot).search(vector, k)[0]
        return found

    # -- what is in here -------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """What is in here: counts, spaces, bytes."""
        with self._mutex:
            snapshot = self._snapshot
            spaces = {}
            for name, stored in snapshot.spaces.items():
                segments = snapshot.segments[name]
                spaces[name] = {
                    "kind": stored.space.kind,
                    "dim": stored.space.dim,
                    "metric": stored.space.metric,
                    "encoder": stored.spec,
                    "dtype": None if stored.space.kind == "sparse" else stored.dtype,
                    "rows": sum(segment.rows for segment in segments),
                    "segments": len(segments),
                    "bytes": sum(segment.pack.nbytes for segment in segments),
                    "pending": snapshot.pending(name),
                    "arranged": [configuration_of(s.pack) for s in segments if is_arranged(s.pack)],
                }
            return {
                "path": str(self.path),
                "documents": len(snapshot),
                "passages": snapshot.chunks(),
                "deleted_rows": len(snapshot.tombstones),
                "bytes": sum(_size(os.path.join(top, name)) for top, _, names in os.walk(self.path) for name in names),
                "spaces": spaces,
                "settings": dict(self.settings),
            }

    @property
    def settings(self) -> MutableMapping[str, Any]:
        """What the user wants remembered with the collection: a persistent dictionary of JSON values."""
        return Settings(self)

    def __repr__(self) -> str:
        if self._closed:
            return f"<Collection {str(self.path)!r}, closed>"
        with self._mutex:
            spaces = ", ".join(
                name if name == LEXICAL else f"{s.space.kind} {s.space.dim}"
                for name, s in self._snapshot.spaces.items()
            )
            size = f"{len(self):,} documents, {self._snapshot.chunks():,} passages"
            return f"<Collection {str(self.path)!r}: {size}; {spaces}>"


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0  # a writer was quicker


@contextmanager
def _without_collector() -> Iterator[None]:
    """Thousands of documents and no cycles among them: the collector would search them again and again in vain."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _bar(items: Any, progress: bool) -> Any:
    if not progress:
        return items
    from tqdm import tqdm

    return tqdm(items, unit="doc", desc="adding")
