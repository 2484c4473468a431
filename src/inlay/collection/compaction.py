"""Compaction: many small segments into few large ones, deleted rows dropped. Part of a write, never of a read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inlay.collection.arranged_rows import is_arranged
from inlay.collection.catalog import Catalog
from inlay.collection.merge import merge
from inlay.collection.segment import Segment, store, sweep
from inlay.collection.snapshot import Snapshot, StoredSpace
from inlay.collection.thin_rows import is_thin
from inlay.errors import InlayError

__all__ = ["compact"]

FAN = 8  # segments of one size class before they are merged into one of the next
TOO_DEAD = 0.3  # share of deleted rows at which a segment is rewritten


def compact(catalog: Catalog, folder: Path, *, everything: bool = False) -> int:
    """Merge segments: those of a size class that has `FAN` of them, and those with many deleted rows.

    Args:
        everything: merge each space into one segment.

    Returns:
        How many segments were replaced.
    """
    replaced = 0
    while step := _pass(catalog, folder, everything):
        replaced += step
        if everything:
            break
    if replaced:
        _unbury(catalog, folder)
        sweep(folder / "segments", {row[0] for row in catalog.all("SELECT segment FROM segments")})
    return replaced


def _pass(catalog: Catalog, folder: Path, everything: bool) -> int:
    few = catalog.one("SELECT max(n) FROM (SELECT count(*) AS n FROM segments GROUP BY space)")
    buried = catalog.one("SELECT count(*) FROM tombstones")
    if not few or (few < FAN and not buried and not everything):
        return 0  # the common case after an addition: nothing to look at
    snapshot = Snapshot(catalog, folder, patient=False)
    replaced = 0
    for name, segments in snapshot.segments.items():
        if name in snapshot.broken:
            if everything:
                raise snapshot.broken[name]
            continue
        # Those have no plain rows to merge.
        segments = [one for one in segments if not (is_thin(one.pack) or is_arranged(one.pack))]
        alive = [_alive(segment, snapshot.tombstones) for segment in segments]
        groups = [list(range(len(segments)))] if everything else _groups(segments, alive)
        for group in groups:
            clean = all(alive[i].all() for i in group)
            if not group or (everything and len(group) == 1 and clean):
                continue
            old = [segments[i] for i in group]
            try:
                _replace(catalog, folder, snapshot.spaces[name], old, [alive[i] for i in group])
            except InlayError:
                # The addition or deletion that brought us here is done, and its caller must not hear otherwise.
                if everything:
                    raise
                continue
            replaced += len(group)
    return replaced


def _alive(segment: Segment, tombstones: np.ndarray) -> np.ndarray:
    alive = np.ones(segment.rows, dtype=bool)
    alive[segment.rows_of(tombstones)[1]] = False
    return alive


def _replace(
    catalog: Catalog, folder: Path, space: StoredSpace, old: Sequence[Segment], alive: Sequence[np.ndarray]
) -> None:
    for segment in old:
        segment.pack.verify()  # a merge must not launder damaged bytes into fresh checksums
    stored = None
    if any(mask.any() for mask in alive):
        stored = store(folder / "segments", merge(space.space, old, alive))
    with catalog.write():
        catalog.many("DELETE FROM segments WHERE segment=?", [(segment.name,) for segment in old])
        if stored:
            catalog.run("INSERT INTO segments VALUES(?,?,?,?,?,?)", stored.record(space.number))


def _unbury(catalog: Catalog, folder: Path) -> None:
    """Forget tombstones of chunks that no segment holds any more."""
    snapshot = Snapshot(catalog, folder, patient=False)
    if not len(snapshot.tombstones) or snapshot.broken:
        return
    held = [s.chunks[s.rows_of(snapshot.tombstones)[1]] for group in snapshot.segments.values() for s in group]
    free = np.setdiff1d(snapshot.tombstones, np.concatenate(held) if held else [])
    if len(free):
        with catalog.write():
            catalog.many("DELETE FROM tombstones WHERE chunk=?", [(chunk,) for chunk in free.tolist()])


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
