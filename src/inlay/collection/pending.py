"""Rows that are owed: chunks whose expensive vectors come later, by demand of a query or in batches.

The list of pending chunks is in the catalog, so the work can stop at any moment and go on from there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from inlay.collection.brought import pick
from inlay.collection.catalog import Catalog
from inlay.collection.rows import rows_of
from inlay.collection.segment import store
from inlay.collection.snapshot import LEXICAL, StoredSpace, embeddable, searchable

__all__ = ["fill", "keep", "waiting"]


def waiting(catalog: Catalog, space: StoredSpace, limit: int) -> list[tuple[int, str]]:
    """Pending chunks of a space with the text to encode, oldest first."""
    of = searchable if space.name == LEXICAL else embeddable
    owed = catalog.all(
        "SELECT chunk, doc, start, stop, heading FROM pending JOIN chunks USING(chunk) "
        "WHERE space=? ORDER BY chunk LIMIT ?",
        (space.number, limit),
    )
    # Whole texts, cut here: SQLite's substr reads a text from its start for every passage of a long document.
    documents = {
        doc: (json.loads(metadata), text)
        for doc, metadata, text in catalog.all(
            "SELECT doc, metadata, text FROM documents WHERE doc IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted({row[1] for row in owed})),),
        )
    }
    return [
        (chunk, of(documents[doc][0], heading, documents[doc][1][start:stop]))
        for chunk, doc, start, stop, heading in owed
    ]


def keep(catalog: Catalog, folder: Path, space: StoredSpace, chunks: np.ndarray, rows: Any, encoder: Any = None) -> int:
    """Store the rows of pending chunks.

    Args:
        chunks: int64 [n], ascending. Those that are no longer pending are passed over.
        rows: their rows, or their texts if `encoder` is given.

    Returns:
        How many were stored.
    """
    owed = {
        row[0]
        for row in catalog.all(
            "SELECT chunk FROM pending WHERE space=? AND chunk IN (SELECT value FROM json_each(?))",
            (space.number, json.dumps(chunks.tolist())),
        )
    }
    still = [i for i, chunk in enumerate(chunks.tolist()) if chunk in owed]
    if not still:
        return 0
    rows = [rows[i] for i in still] if isinstance(rows, list) else pick(rows, still)
    stored = store(folder / "segments", {**rows_of(space, encoder, rows), "chunks": chunks[still]})
    with catalog.write():
        catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", stored.record(space.number))
        catalog.many(
            "DELETE FROM pending WHERE space=? AND chunk=?", [(space.number, c) for c in chunks[still].tolist()]
        )
    return len(still)


def fill(catalog: Catalog, folder: Path, space: StoredSpace, encoder: Any, batch: int) -> int:
    """Encode one batch of pending chunks. Returns how many there were."""
    owed = waiting(catalog, space, batch)
    if not owed:
        return 0
    chunks = np.array([chunk for chunk, _ in owed], dtype=np.int64)
    return keep(catalog, folder, space, chunks, [text for _, text in owed], encoder)
