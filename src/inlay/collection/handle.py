"""What holding a collection means: files open, a state of it in view, the right to write taken when first needed."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from inlay.collection.brought import Brought
from inlay.collection.catalog import Catalog
from inlay.collection.lock import WriterLock
from inlay.collection.pending import fill
from inlay.collection.segment import Segment
from inlay.collection.snapshot import DENSE, LEXICAL, Snapshot, StoredSpace, stored_spaces
from inlay.collection.writer import Writer
from inlay.errors import BadInput, InlayError, Locked, ModelChanged, SpaceMismatch
from inlay.io import sync_folder
from inlay.types import Chunk, Document, Space, SpaceMap

__all__ = ["Handle"]

DEFAULT_ENCODER = "box"  # the best that needs no download


class Handle:
    """An open collection, without its verbs: see `Collection`."""

    def __init__(
        self,
        path: str | Path,
        *,
        encoder: Any = None,
        mode: str = "a",
        dtype: str = "float32",
        chunk: int | None = 1600,
        metric: str = "cosine",
        space_map: SpaceMap | None = None,
    ) -> None:
        if mode not in ("a", "r"):
            raise BadInput(f"mode is 'a' (read and write) or 'r' (read), got {mode!r}")
        if dtype not in ("float32", "float16", "int8"):
            raise BadInput(f"dtype is 'float32', 'float16' or 'int8', got {dtype!r}")
        if metric not in ("cosine", "dot", "l2"):
            raise BadInput(f"metric is 'cosine', 'dot' or 'l2', got {metric!r}")
        if chunk is not None and (not isinstance(chunk, int) or chunk < 64):
            raise BadInput(f"chunk is a number of characters, at least 64, or None, got {chunk!r}")
        if not isinstance(path, str | os.PathLike) or not os.fspath(path) or "\0" in str(path):
            raise BadInput(f"the path of a collection is a non-empty string or a Path, got {path!r}")
        if space_map is not None and not hasattr(space_map, "transform"):
            raise BadInput(f"space_map needs a method transform(rows), got {type(space_map).__name__}")
        self.path = Path(path)
        self._mode, self._map = mode, space_map
        self._mutex = threading.RLock()
        self._closed = False
        if not os.path.exists(self.path / "catalog.sqlite"):
            self._make_folder(mode)
        self._catalog = Catalog(self.path / "catalog.sqlite", create=mode == "a")
        self._lock = WriterLock(self.path)
        self._writer: Writer | None = None
        self._state: Snapshot | None = None
        self._analyzer: Any = None
        self._encoder: Any = None  # makes rows of queries, and of documents unless there is a space map
        self._maker: Any = None  # makes rows of documents where the encoder may not
        self._asked = encoder
        self._background: threading.Thread | None = None
        self._stop = threading.Event()
        # Vectors made on demand that could not be stored because another process writes.
        self._unsaved: list[Segment] = []
        try:
            if self._catalog.get("dtype") is None:
                if mode == "r":
                    raise BadInput(f"{self.path} is not an inlay collection yet: whoever makes it has not finished")
                self._found(dtype, chunk, metric)
            self._check_encoder()
            self._resume()
        except BaseException:
            self.close()
            raise

    # -- opening -------------------------------------------------------------------------------------------------

    def _make_folder(self, mode: str) -> None:
        if mode == "r":
            raise BadInput(f"there is no collection at {self.path}")
        try:
            if self.path.exists() and not self.path.is_dir():
                raise BadInput(f"{self.path} is a file; a collection is a directory")
            if self.path.is_dir() and any(not e.name.startswith("catalog.sqlite") for e in self.path.iterdir()):
                raise BadInput(
                    f"{self.path} is a folder with other things in it, not a collection. To search a folder: "
                    f"inlay search QUERY {self.path}; to make a collection, name a new directory"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            sync_folder(self.path.parent)
        except OSError as error:
            raise BadInput(f"cannot make a collection at {self.path}: {error.strerror or error}") from error

    def _found(self, dtype: str, chunk: int | None, metric: str) -> None:
        """Settle what a new collection is."""
        from inlay.encoders import encoder as by_name

        asked = DEFAULT_ENCODER if self._asked is None else self._asked
        made = None if asked is False else by_name(asked)
        with self._catalog.write():
            if self._catalog.get("dtype") is not None:
                return  # another process was quicker
            self._catalog.set("dtype", dtype)
            self._catalog.set("chunk", chunk)
            self._catalog.set("metric", metric)
            spec = {"k1": 1.2, "b": 0.75, "stemmer": "english", "stopwords": "english"}
            self._new_space(LEXICAL, Space("sparse", 0, "dot", "bm25"), spec)
            if made is not None and made.space.dim:
                self._new_space(DENSE, made.space, getattr(made, "spec", None))
        self._encoder = made

    def _new_space(self, name: str, space: Space, spec: dict[str, Any] | None) -> None:
        self._catalog.run(
            "INSERT INTO spaces(name, kind, dim, metric, fingerprint, dtype, spec) VALUES(?,?,?,?,?,?,?)",
            (
                name,
                space.kind,
                space.dim,
                space.metric,
                space.fingerprint,
                self._catalog.get("dtype"),
                None if spec is None else json.dumps(spec),
            ),
        )

    def _check_encoder(self) -> None:
        """An encoder that is asked for must be the one that made the stored vectors."""
        if self._asked in (None, False) or self._encoder is not None:
            return
        from inlay.encoders import encoder as by_name

        made = by_name(self._asked)
        stored = stored_spaces(self._catalog).get(DENSE)
        if stored and stored.space.fingerprint != made.space.fingerprint and self._map is None:
            raise SpaceMismatch(
                f"{self.path} holds vectors {_origin(stored)}, not of {made!r}: they cannot "
                "be compared. Open it without encoder=, or pass space_map= from one to the other, or index again"
            )
        self._encoder = made

    def _resume(self) -> None:
        """Finish what an interrupted writer left, if nobody else is writing."""
        if self._mode == "r":
            return
        owed = {row[0] for row in self._catalog.all("SELECT DISTINCT space FROM pending")}
        spaces = [stored for stored in stored_spaces(self._catalog).values() if stored.number in owed]
        cheap = [stored for stored in spaces if stored.name == LEXICAL or self._is_cheap(stored)]
        if cheap:
            with suppress(Locked), self._writing():
                encoders = self._encoders()
                for stored in cheap:
                    while fill(self._catalog, self.path, stored, encoders[stored.name], 4096):
                        pass

    def _is_cheap(self, stored: StoredSpace) -> bool:
        made = self._document_encoder()
        return made is not None and not getattr(made, "expensive", False)

    # -- encoders ------------------------------------------------------------------------------------------------

    def _terms(self) -> Any:
        if self._analyzer is None:
            from inlay.encoders.analysis import Analyzer

            spec = stored_spaces(self._catalog)[LEXICAL].spec or {}
            self._analyzer = Analyzer(stemmer=spec.get("stemmer"), stopwords=spec.get("stopwords"))
        return self._analyzer

    def _dense_encoder(self) -> Any:
        """The encoder of the dense space, or None where the vectors are brought from outside."""
        if self._encoder is None:
            stored = stored_spaces(self._catalog).get(DENSE)
            if stored and stored.spec and self._asked is not False:
                from inlay.encoders import encoder as by_name

                made = by_name(**stored.spec)
                if made.space.fingerprint != stored.space.fingerprint:
                    raise ModelChanged(
                        f"{made!r} is no longer the model that made the vectors of {self.path} (it was "
                        f"{stored.space.fingerprint}, it is {made.space.fingerprint}): restore the model or make the "
                        "collection again; inlay index --rebuild does so for a folder"
                    )
                self._encoder = made
        return self._encoder

    def check_model(self) -> None:
        """See that the model that made the dense vectors is still what its name stands for.

        Raises:
            ModelChanged: it is another one now, and queries by it cannot be compared with these vectors.
        """
        self._dense_encoder()

    def _document_encoder(self) -> Any:
        """What makes rows of documents, or None where it is not at hand.

        An encoder whose queries need a space map is not it: its rows must not stand beside those of the stored model.
        """
        made = self._dense_encoder()
        stored = stored_spaces(self._catalog).get(DENSE)
        if made is None or stored is None or made.space.fingerprint == stored.space.fingerprint:
            return made
        if self._maker is None and stored.spec:
            from inlay.encoders import encoder as by_name

            with suppress(InlayError):
                again = by_name(**stored.spec)
                self._maker = again if again.space.fingerprint == stored.space.fingerprint else None
        return self._maker

    def _encoders(self) -> dict[str, Any]:
        """What makes rows of documents, by name of the space; a space whose encoder is not at hand is left out."""
        found: dict[str, Any] = {LEXICAL: self._terms()}
        stored = stored_spaces(self._catalog).get(DENSE)
        if stored is not None and stored.space.fingerprint != "given":
            made = self._document_encoder()
            if made is not None:
                found[DENSE] = made
        return found

    # -- spaces -------------------------------------------------------------------------------------------------

    def _given_space(self, rows: Brought) -> str:
        """The space that brought vectors belong to, made by the first of them."""
        stored = self._snapshot.spaces.get(DENSE)
        if stored is None:
            if len(self._snapshot):
                raise SpaceMismatch(
                    f"{self.path} has documents without vectors; vectors must come with the first documents"
                )
            with self._catalog.write():
                self._new_space(DENSE, self._space_of(rows), None)
            self._state = None
        elif stored.space.fingerprint != "given":
            if len(self._snapshot) == 0 and self._asked is None:
                # Nobody asked for the default encoder, and nothing was encoded by it: the vectors decide.
                with self._catalog.write():
                    for table in ("spaces", "segments", "pending"):
                        self._catalog.run(f"DELETE FROM {table} WHERE space=?", (stored.number,))
                self._encoder, self._state = None, None
                return self._given_space(rows)
            raise SpaceMismatch(
                f"the vectors of {self.path} are made by {stored.spec or stored.space.fingerprint}; "
                "vectors of another origin cannot be compared with them. Open a new collection with encoder=False"
            )
        elif stored.space.kind != rows.kind:
            raise SpaceMismatch(f"the vectors are {rows.kind}, those of {self.path} are {stored.space.kind}")
        elif stored.space.dim != rows.dim:
            raise SpaceMismatch(f"the vectors have {rows.dim} dimensions, those of {self.path} have {stored.space.dim}")
        return DENSE

    def _space_of(self, rows: Brought) -> Space:
        """Where brought vectors are comparable."""
        metric = self._catalog.get("metric")
        if rows.kind != "dense" and metric == "l2":
            raise BadInput(f"{rows.kind} vectors are compared by dot product or cosine, {self.path} has metric='l2'")
        return Space(rows.kind, rows.dim, "dot" if rows.kind == "sparse" else metric, "given")

    def _can_encode(self) -> bool:
        stored = self._snapshot.spaces.get(DENSE)
        if stored is not None:
            return stored.space.fingerprint != "given"
        made = self._dense_encoder()
        if made is not None:
            # An endpoint tells its dimension only once it has been asked.
            if not made.space.dim:
                made.encode_query(["dimension"])
            with self._catalog.write():
                self._new_space(DENSE, made.space, getattr(made, "spec", None))
                # What was there before the encoder came is owed its rows.
                self._catalog.run("INSERT INTO pending SELECT space, chunk FROM chunks, spaces WHERE name=?", (DENSE,))
            self._state = None
            self._resume()
        return True

    def _cut(self, document: Document) -> Sequence[Chunk]:
        limit = self._catalog.get("chunk")
        if limit is None or (len(document.text) <= limit and "kind" not in document.metadata):
            return [Chunk(0, len(document.text))]
        from inlay.documents import chunk

        kind, language = document.metadata.get("kind"), document.metadata.get("language")
        return chunk(
            document.text,
            kind=kind if isinstance(kind, str) else "text",
            language=language if isinstance(language, str) else None,
            limit=limit,
        )

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def _snapshot(self) -> Snapshot:
        self._alive()
        if self._state is None:
            for attempt in range(20):
                if not self._lock.held:
                    self._catalog.pin()
                try:
                    self._state = Snapshot(self._catalog, self.path, patient=attempt < 19 and not self._lock.held)
                    break
                except FileNotFoundError:
                    # A compaction unlinked a segment between our reading its name and opening it.
                    self._catalog.unpin()
        assert self._state is not None
        return self._state

    def _alive(self) -> None:
        if self._closed:
            raise BadInput(f"the collection {self.path} is closed")

    def _writing(self, *, brief: bool = False) -> Writing:
        self._alive()
        if self._mode == "r":
            raise BadInput(f"{self.path} is open for reading only; open it with mode='a' to write")
        return Writing(self, brief)

    def refresh(self) -> None:
        """See what others have written since opening."""
        with self._mutex:
            self._alive()
            self._state = None
            self._catalog.unpin()

    def close(self) -> None:
        """Let go of files and locks. Nothing needs saving: what was acknowledged is on disk."""
        self._stop.set()
        if self._background is not None and self._background is not threading.current_thread():
            self._background.join()
        with self._mutex:
            if self._closed:
                return
            self._state = None
            self._closed = True
            if getattr(self, "_catalog", None) is not None:
                self._catalog.close()
            if getattr(self, "_lock", None) is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _origin(stored: StoredSpace) -> str:
    if stored.space.fingerprint == "given":
        return "that were brought from outside"
    if stored.spec is None:
        return f"of another encoder object ({stored.space.fingerprint})"
    name, *options = stored.spec.items()
    return f"of {name[1]}" + (f" ({', '.join(f'{key}={value!r}' for key, value in options)})" if options else "")


class Writing:
    """The right to write. It is kept until the collection is closed, unless it is taken briefly, as by a search."""

    def __init__(self, collection: Handle, brief: bool) -> None:
        self._collection = collection
        self._give_back = brief and not collection._lock.held

    def __enter__(self) -> Writer:
        c = self._collection
        if not c._lock.held:
            c._lock.acquire()
            # Others may have written since our snapshot.
            c._catalog.unpin()
            c._state = None
        if c._writer is None:
            c._writer = Writer(c._catalog, c.path, c._encoders, c._cut)
        return c._writer

    def __exit__(self, *_: object) -> None:
        if self._give_back:
            self._collection._lock.release()
            self._collection._state = None
