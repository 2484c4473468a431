"""Keeping a collection in step with a folder of files: what changed is read again, what vanished is removed.

A file counts as changed when its size or modification time does, or when it could not be read (no permission, no reader
installed) and now can be. Each step is one transaction, so an interrupted synchronisation goes on where it stopped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inlay.collection.collection import Collection
from inlay.errors import BadInput, InlayError

__all__ = ["SyncReport", "sync"]

STEP_BYTES, STEP_FILES = 4_000_000, 256  # of files read between two commits
AGAIN = -1  # time of modification that is kept of a file which could not be read for reasons outside of it


@dataclass
class SyncReport:
    """What a synchronisation found and did.

    `files` were seen; of these `added`, `updated` and `unchanged` (files), `removed` are gone from the folder;
    `skipped` could not be read, with the reason; `documents` is the size of the collection afterwards.
    """

    files: int = 0
    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    documents: int = 0
    seconds: float = 0.0


def sync(
    collection: Collection,
    folder: str | Path,
    *,
    progress: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    hidden: bool = False,
) -> SyncReport:
    """Bring a collection up to date with a folder (or a single file).

    Args:
        collection: open for writing; the lock is taken only if something changed.
        folder: what to index. The collection remembers it in `settings["folder"]`.
        progress: show a progress bar over bytes, on standard error.
        include: only names that match one of these patterns.
        exclude: no names that match one of these.
        hidden: also hidden files.

    Raises:
        BadInput: there is no such folder.
        Locked: something changed and another process is writing.
    """
    from inlay.documents import walk

    started = time.perf_counter()
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise BadInput(f"a folder is a non-empty string or a Path, got {folder!r}")
    root = Path(folder)
    if not os.path.exists(root):
        raise BadInput(f"there is no file or folder {root}")
    report = SyncReport()
    catalog = collection._catalog
    known = {path: (size, mtime) for path, size, mtime in catalog.all("SELECT path, size, mtime_ns FROM sources")}
    seen: set[str] = set()
    changed = []
    for source in walk(
        root,
        include=include,
        exclude=exclude,
        hidden=hidden,
        on_skip=lambda name, reason: report.skipped.append((name, reason)),
    ):
        seen.add(source.name)
        report.files += 1
        if _as_it_was(source, known.get(source.name)):
            report.unchanged += 1
        else:
            changed.append(source)
    gone = sorted(set(known) - seen)
    if changed or gone:
        resolved = str(root.resolve())
        if collection.settings.get("folder") != resolved:
            collection.settings["folder"] = resolved
        _forget(collection, gone)
        report.removed = len(gone)
        _read(collection, changed, known, report, progress)
        collection.settings["indexed_at"] = time.time()
    report.documents = len(collection)
    report.seconds = time.perf_counter() - started
    return report


def _as_it_was(source: Any, was: tuple[int, int] | None) -> bool:
    """Whether reading a file again would find nothing new."""
    if was == (source.size, AGAIN):
        from inlay.documents.reading import may_read

        return not may_read(source)
    return was == (source.size, source.mtime_ns)


def _forget(collection: Collection, paths: Sequence[str]) -> None:
    for path in paths:
        ids = [row[0] for row in collection._catalog.all("SELECT id FROM source_documents WHERE path=?", (path,))]
        collection.delete(ids)
        with collection._mutex, collection._writing(), collection._catalog.write():
            collection._catalog.run("DELETE FROM source_documents WHERE path=?", (path,))
            collection._catalog.run("DELETE FROM sources WHERE path=?", (path,))


def _read(collection: Collection, sources: Sequence[Any], known: Any, report: SyncReport, progress: bool) -> None:
    from tqdm import tqdm

    total = sum(source.size for source in sources)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc="indexing", disable=not progress, leave=False, delay=0.3
    ) as bar:
        step: list[Any] = []
        size = 0
        for source in sources:
            step.append(source)
            size += source.size
            if size >= STEP_BYTES or len(step) >= STEP_FILES:
                _store(collection, step, known, report)
                bar.update(size)
                step, size = [], 0
        if step:
            _store(collection, step, known, report)
            bar.update(size)


def _store(collection: Collection, step: Sequence[Any], known: Any, report: SyncReport) -> None:
    from inlay.documents import read

    documents, owned = [], []
    for source in step:
        stamp = source.mtime_ns
        try:
            of_file = read(source, on_skip=lambda name, reason: report.skipped.append((name, reason)))
        except (InlayError, OSError) as error:
            report.skipped.append((source.name, str(error)))
            of_file = []
            if isinstance(error, OSError) or getattr(error, "passing", False):
                stamp = AGAIN
        documents += of_file
        owned.append((source, stamp, [document.id for document in of_file]))
        if source.name not in known:
            report.added += 1
        else:
            report.updated += 1
    stored = collection.update(documents) if documents else None
    if stored:
        report.skipped += [(failure.id, failure.reason) for failure in stored.failed]
    catalog = collection._catalog
    with collection._mutex, collection._writing():
        stale = []
        for source, _, ids in owned:
            now = set(ids)
            was = catalog.all("SELECT id FROM source_documents WHERE path=?", (source.name,))
            stale += [row[0] for row in was if row[0] not in now]
        if stale:
            collection.delete(stale)
        # Last: a file is done only when its documents are.
        with catalog.write():
            for source, stamp, ids in owned:
                catalog.run("DELETE FROM source_documents WHERE path=?", (source.name,))
                catalog.many("INSERT OR IGNORE INTO source_documents VALUES(?,?)", [(source.name, i) for i in ids])
                catalog.run("INSERT OR REPLACE INTO sources VALUES(?,?,?)", (source.name, source.size, stamp))
