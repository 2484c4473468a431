"""Verifying and repairing a collection: every byte against its checksum, every row against every other.

Text is the source: whatever was made from it can be made again. Only vectors that were brought from outside cannot.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from inlay.collection.catalog import Catalog
from inlay.collection.filters import flatten
from inlay.collection.pending import fill
from inlay.collection.segment import Segment
from inlay.collection.snapshot import Snapshot
from inlay.collection.writer import Writer
from inlay.errors import Corrupt, InlayError

__all__ = ["repair", "verify"]


def verify(catalog: Catalog, folder: Path, *, progress: bool = False) -> list[str]:
    """All problems of a collection, in words."""
    problems = catalog.verify()
    if problems:
        return problems  # the rest would be read from a catalog that cannot be believed
    broken = _broken_segments(catalog, folder, progress)
    problems += [text for _, text in broken]
    if not broken:
        problems += _rows(catalog, folder)
    problems += _documents(catalog)
    return problems


def _broken_segments(catalog: Catalog, folder: Path, progress: bool) -> list[tuple[str, str]]:
    from tqdm import tqdm

    broken = []
    rows = catalog.all("SELECT segment, rows, digest, data, bytes FROM segments ORDER BY rowid")
    with tqdm(
        total=sum(row[4] for row in rows),
        unit="B",
        unit_scale=True,
        desc="verifying",
        disable=not progress,
        leave=False,
    ) as bar:
        for name, count, digest, data, _ in rows:
            try:
                Segment(folder / "segments", name, count, digest, data).pack.verify(bar.update)
            except (Corrupt, OSError, ValueError, KeyError) as error:
                broken.append((name, str(error)))
    return broken


def _rows(catalog: Catalog, folder: Path) -> list[str]:
    """Every alive chunk has exactly one row in every space, or waits for it; nothing else has one."""
    problems = []
    snapshot = Snapshot(catalog, folder)
    alive = np.array([row[0] for row in catalog.all("SELECT chunk FROM chunks ORDER BY chunk")], dtype=np.int64)
    if np.intersect1d(alive, snapshot.tombstones).size:
        problems.append("some passages are both alive and deleted")
    for name, stored in snapshot.spaces.items():
        covered = snapshot.view(name).covered()
        waiting = [row[0] for row in catalog.all("SELECT chunk FROM pending WHERE space=?", (stored.number,))]
        have = np.concatenate([covered, np.array(waiting, dtype=np.int64)])
        if len(np.unique(have)) != len(have):
            problems.append(f"space {name}: some passages have more than one row")
        missing, extra = np.setdiff1d(alive, have), np.setdiff1d(have, alive)
        if len(missing):
            problems.append(f"space {name}: {len(missing)} passages have no row (first: {missing[0]})")
        if len(extra):
            problems.append(f"space {name}: {len(extra)} rows belong to no passage (first: {extra[0]})")
    return problems


def _documents(catalog: Catalog) -> list[str]:
    problems = []
    orphans = catalog.one("SELECT count(*) FROM chunks WHERE doc NOT IN (SELECT doc FROM documents)")
    if orphans:
        problems.append(f"{orphans} passages belong to no document")
    bare = catalog.one("SELECT count(*) FROM documents WHERE doc NOT IN (SELECT doc FROM chunks)")
    if bare:
        problems.append(f"{bare} documents have no passage")
    count = 0
    for (metadata,) in catalog.rows("SELECT metadata FROM documents"):
        count += len(set(flatten(json.loads(metadata))))
    if count != catalog.one("SELECT count(*) FROM fields"):
        problems.append("the filter index does not match the documents' metadata")
    return problems


def repair(catalog: Catalog, folder: Path, writer: Writer) -> list[str]:
    """Drop damaged segments and make their rows again from the text; rebuild the filter index.

    Returns:
        What was done, in words.

    Raises:
        InlayError: the catalog itself is damaged: export what can be read, or restore a copy.
    """
    problems = catalog.verify()
    if problems:
        raise InlayError(
            f"the catalog is damaged ({problems[0]}); it holds the documents themselves and cannot be made again. "
            f"Restore it from a copy, or index the source again"
        )
    done = []
    broken = _broken_segments(catalog, folder, progress=False)
    if broken:
        with catalog.write():
            catalog.many("DELETE FROM segments WHERE segment=?", [(name,) for name, _ in broken])
        done.append(f"removed {len(broken)} damaged segments")
    snapshot = Snapshot(catalog, folder)
    alive = np.array([row[0] for row in catalog.all("SELECT chunk FROM chunks ORDER BY chunk")], dtype=np.int64)
    for name, stored in snapshot.spaces.items():
        waiting = [row[0] for row in catalog.all("SELECT chunk FROM pending WHERE space=?", (stored.number,))]
        missing = np.setdiff1d(np.setdiff1d(alive, snapshot.view(name).covered()), waiting)
        if not len(missing):
            continue
        if stored.space.fingerprint == "given":
            lost = catalog.all(
                "SELECT DISTINCT id FROM chunks JOIN documents USING(doc) "
                "WHERE chunk IN (SELECT value FROM json_each(?))",
                (json.dumps(missing.tolist()),),
            )
            names = ", ".join(row[0] for row in lost[:5])
            done.append(
                f"{len(lost)} documents lost the vectors that were given with them and were removed; "
                f"add them again: {names}" + (" …" if len(lost) > 5 else "")
            )
            writer.remove([row[0] for row in lost])
            continue
        with catalog.write():
            catalog.many("INSERT INTO pending VALUES(?,?)", [(stored.number, int(chunk)) for chunk in missing])
        if encoder := writer.encoders().get(name):
            while fill(catalog, folder, stored, encoder, 4096):
                pass
        done.append(f"made {len(missing)} rows of space {name} again")
    with catalog.write():
        catalog.run("DELETE FROM fields")
        for doc, metadata in catalog.all("SELECT doc, metadata FROM documents"):
            catalog.many(
                "INSERT OR IGNORE INTO fields VALUES(?,?,?)",
                [(name, value, doc) for name, value in flatten(json.loads(metadata))],
            )
    writer.clean()
    return done
