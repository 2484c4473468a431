"""The catalog: the one mutable file of a collection, and its source of truth.

SQLite in WAL mode through `apsw`, with the page-checksum VFS of SQLite itself, so that a flipped byte in the database
is an error and not a wrong answer. A segment exists when its row does; a document is acknowledged when its commit is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import apsw
import apsw.sqlite_extra

from inlay.errors import BadInput, Corrupt, InlayError, Locked

__all__ = ["FORMAT", "Catalog"]

FORMAT = 1
_PAGE_SUMS = 8  # reserved bytes per page that hold its checksum
_PATIENCE = 10_000  # milliseconds to wait for another process's commit
_MISREAD = (apsw.SQLITE_IOERR_DATA, apsw.SQLITE_IOERR_READ, apsw.SQLITE_IOERR_SHORT_READ, apsw.SQLITE_IOERR_CORRUPTFS)

_SCHEMA = """
CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents(
    doc INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, hash BLOB NOT NULL, metadata TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE chunks(
    chunk INTEGER PRIMARY KEY, doc INTEGER NOT NULL, number INTEGER NOT NULL, start INTEGER NOT NULL,
    stop INTEGER NOT NULL, line INTEGER NOT NULL, last_line INTEGER NOT NULL,
    heading TEXT NOT NULL, hash BLOB NOT NULL);
CREATE INDEX chunks_of_document ON chunks(doc);
CREATE TABLE fields(name TEXT, value, doc INTEGER, PRIMARY KEY(name, value, doc)) WITHOUT ROWID;
CREATE TABLE spaces(
    space INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, dim INTEGER NOT NULL,
    metric TEXT NOT NULL, fingerprint TEXT NOT NULL, dtype TEXT NOT NULL, spec TEXT);
CREATE TABLE segments(
    segment TEXT PRIMARY KEY, space INTEGER NOT NULL, rows INTEGER NOT NULL, bytes INTEGER NOT NULL,
    digest BLOB, data BLOB);
CREATE TABLE pending(space INTEGER, chunk INTEGER, PRIMARY KEY(space, chunk)) WITHOUT ROWID;
CREATE TABLE tombstones(chunk INTEGER PRIMARY KEY);
CREATE TABLE sources(path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE source_documents(path TEXT, id TEXT, PRIMARY KEY(path, id)) WITHOUT ROWID;
"""


def _load_checksums() -> None:
    if "cksmvfs" in apsw.vfs_names():
        return
    if not apsw.sqlite_extra.has("cksumvfs"):
        raise InlayError("this build of apsw lacks cksumvfs; install apsw from its binary wheel: pip install -U apsw")
    scratch = apsw.Connection(":memory:")
    apsw.sqlite_extra.load(scratch, "cksumvfs")
    scratch.close()


def _cannot_change(path: Path) -> bool:
    """Whether the file is on a read-only medium, where SQLite cannot make the files that its readers share.

    With a write-ahead log beside it, somebody else can write there, and a plain reader is what is wanted.
    """
    if not hasattr(os, "statvfs") or os.path.exists(f"{path}-wal"):
        return False
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


class Catalog:
    """Connection to a collection's `catalog.sqlite`.

    Args:
        path: the file.
        create: make it if there is none.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        _load_checksums()
        self.path = path
        self._depth = 0
        try:
            fresh = not path.exists() or path.stat().st_size == 0
        except OSError as error:
            raise InlayError(f"cannot read {path}: {error.strerror or error}") from error
        if fresh and not create:
            raise BadInput(f"{path.parent} is not an inlay collection (it has no {path.name})")
        with self._errors():
            if not create and _cannot_change(path):
                name = f"file:{quote(str(path.absolute()))}?immutable=1"
                self.db = apsw.Connection(name, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI, vfs="cksmvfs")
            else:
                new = apsw.SQLITE_OPEN_CREATE if fresh else 0
                self.db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE | new, vfs="cksmvfs")
            self.db.set_busy_timeout(_PATIENCE)
            # A writer that was killed while it made the catalog may have left a file without tables.
            blank = fresh or self.db.execute("SELECT count(*) FROM sqlite_schema").get == 0
            # The one byte that page checksums cannot protect is the one that switches them on. It is asked for through
            # SQLite: to open and close the file ourselves would drop the locks that this process has on it.
            if not blank and self.db.reserve_bytes("main") != _PAGE_SUMS:
                self.db.close()
                raise Corrupt(f"{path} is damaged: its page checksums are off. Run: inlay doctor {path.parent}")
            if blank and not create:
                self.db.close()
                raise BadInput(f"{path.parent} is not an inlay collection yet: whoever makes it has not finished")
            if blank and (path.parent / "segments").exists():
                raise Corrupt(
                    f"{path} is empty, but there are segments beside it: its documents are gone. Restore it from a "
                    f"copy, or index again into a new directory"
                )
            if blank:
                self.db.execute("PRAGMA page_size=8192")
                self.db.reserve_bytes("main", _PAGE_SUMS)
                self.db.execute("PRAGMA journal_mode=WAL")
            self.db.execute("PRAGMA synchronous=FULL")
            # A checkpoint costs as much as the commit: not in every large batch, but before the log is 32 MB.
            self.db.execute("PRAGMA wal_autocheckpoint=4096")
            self.db.execute("PRAGMA cache_size=-65536")
            self.db.execute("PRAGMA temp_store=MEMORY")
        if blank:
            with self.write():
                if self.one("SELECT count(*) FROM sqlite_schema WHERE name='settings'") == 0:
                    self.db.execute(_SCHEMA)
                    self.set("format", FORMAT)
            # Into the main file at once: a catalog that exists has its checksums on.
            self.checkpoint()
        found = self.get("format")
        if found != FORMAT:
            self.close()
            raise InlayError(f"{path.parent} has storage format {found}; this version of inlay reads format {FORMAT}")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except apsw.ConnectionClosedError:
            raise BadInput(f"the collection {self.path.parent} is closed") from None
        except apsw.IOError as error:
            # Bytes that came back wrong are damage; a disk that refuses to write is not.
            if getattr(error, "extendedresult", 0) in _MISREAD:
                raise Corrupt(f"{self.path} is damaged ({error}). Run: inlay doctor {self.path.parent}") from error
            raise InlayError(f"cannot write {self.path} ({error}); nothing of this batch was stored") from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise Corrupt(f"{self.path} is damaged ({error}). Run: inlay doctor {self.path.parent}") from error
        except apsw.SQLError as error:
            # With checksums on, a schema that does not parse or a table that is missing is damage too.
            raise Corrupt(f"{self.path} cannot be read ({error}). Run: inlay doctor {self.path.parent}") from error
        except apsw.TooBigError as error:
            raise BadInput(f"a value is too large to store: {error}") from error
        except apsw.FullError as error:
            raise InlayError(f"no space left to write {self.path}; nothing of this batch was stored") from error
        except apsw.BusyError as error:
            raise Locked(f"{self.path} is busy: another process is writing to it") from error
        except apsw.CantOpenError as error:
            raise InlayError(
                f"cannot open {self.path}: {error}. If its folder cannot be written, open it with mode='r'"
            ) from error
        except apsw.ReadOnlyError as error:
            raise InlayError(f"{self.path} cannot be written: {error}") from error

    def all(self, sql: str, bindings: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._errors():
            return self.db.execute(sql, bindings).fetchall()

    def one(self, sql: str, bindings: Sequence[Any] = ()) -> Any:
        """The value of a query's first row (a tuple where it has several columns), or None."""
        with self._errors():
            return self.db.execute(sql, bindings).get

    def rows(self, sql: str, bindings: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows of a query, one by one."""
        with self._errors():
            yield from self.db.execute(sql, bindings)

    def run(self, sql: str, bindings: Sequence[Any] = ()) -> None:
        """A statement without result."""
        with self._errors():
            self.db.execute(sql, bindings)

    def many(self, sql: str, bindings: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows."""
        with self._errors():
            self.db.executemany(sql, bindings)

    def get(self, key: str, default: Any = None) -> Any:
        """A setting."""
        value = self.one("SELECT value FROM settings WHERE key=?", (key,))
        return default if value is None else json.loads(value)

    def set(self, key: str, value: Any) -> None:
        """Store a setting (any JSON value)."""
        self.run("INSERT OR REPLACE INTO settings VALUES(?,?)", (key, json.dumps(value)))

    def pin(self) -> None:
        """Hold the present state for reading: until `unpin`, every read sees it, whatever a writer commits."""
        with self._errors():
            if not self.db.in_transaction:
                self.db.execute("BEGIN")
                self.db.execute("SELECT count(*) FROM settings").get  # noqa: B018 - the first read takes the snapshot

    def unpin(self) -> None:
        """Let go of a held state."""
        with self._errors():
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[None]:
        """One transaction: all of it is durable when the block ends, or none of it happened."""
        if self._depth:
            yield
            return
        self.unpin()
        with self._errors():
            self.db.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
            with self._errors():
                self.db.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    def checkpoint(self) -> None:
        """Move the write-ahead log into the main file, as far as readers allow."""
        self.db.set_busy_timeout(0)  # not worth waiting for: a reader may stay for hours
        try:
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except (apsw.BusyError, apsw.LockedError):
            pass  # a reader holds an older state; the log is kept and read as before
        except apsw.Error:
            with self._errors():
                raise
        finally:
            self.db.set_busy_timeout(_PATIENCE)

    def verify(self) -> list[str]:
        """Every page against its checksum, and the database's own consistency check."""
        try:
            self.db.execute("PRAGMA shrink_memory")  # look at the disk, not at the cache
            found = [row[0] for row in self.db.execute("PRAGMA integrity_check(20)")]
        except apsw.Error as error:
            return [f"{self.path.name}: {error}"]
        return [f"{self.path.name}: {line}" for line in found if line != "ok"]

    def close(self) -> None:
        """Close the connection; the last one out folds the log into the main file."""
        self.db.close()
