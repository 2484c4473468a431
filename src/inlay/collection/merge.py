"""Several segments into one: alive rows only, in order of chunk number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inlay.collection.bag_encodings import with_encodings
from inlay.collection.posting_blocks import with_blocks
from inlay.collection.row_graphs import with_graph
from inlay.collection.segment import Segment, Terms
from inlay.types import Space

__all__ = ["merge"]


def _order(segments: Sequence[Segment], alive: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Chunks of the merged rows, and for each segment the new row of every old one (-1: dropped)."""
    chunks = np.concatenate([segment.chunks[mask] for segment, mask in zip(segments, alive)])
    order = np.argsort(chunks, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    moves, start = [], 0
    for segment, mask in zip(segments, alive):
        new = np.full(segment.rows, -1, dtype=np.int64)
        count = int(mask.sum())
        new[mask] = place[start : start + count]
        moves.append(new)
        start += count
    return chunks[order], moves


def merge(space: Space, segments: Sequence[Segment], alive: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Merge segments of one space.

    Args:
        space: theirs.
        segments: what to merge.
        alive: for each, bool [rows].
    """
    if space.kind == "dense":
        return with_graph(_dense(segments, alive), space.metric)
    return {"sparse": _postings, "multi": _bags}[space.kind](segments, alive)


def _dense(segments: Sequence[Segment], alive: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    chunks, moves = _order(segments, alive)
    merged: dict[str, np.ndarray] = {"chunks": chunks}
    for name in ("rows", "scales"):
        if name in segments[0].pack:
            first = segments[0].pack[name]
            merged[name] = np.empty((len(chunks), *first.shape[1:]), dtype=first.dtype)
            for segment, new in zip(segments, moves):
                keep = new >= 0
                merged[name][new[keep]] = segment.pack[name][keep]
    return merged


def _postings(segments: Sequence[Segment], alive: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Lexical or sparse."""
    chunks, moves = _order(segments, alive)
    lexical = "terms" in segments[0].pack
    columns = [segment.terms.all() if lexical else segment.pack["dims"].tolist() for segment in segments]
    union = sorted(set().union(*columns))
    number = {column: i for i, column in enumerate(union)}

    # Each posting moves to (new column, new row); a stable sort by both restores the order within lists.
    new_columns, new_rows, values = [], [], []
    for segment, names, new in zip(segments, columns, moves):
        mapping = np.fromiter((number[name] for name in names), dtype=np.int64, count=len(names))
        rows = new[segment.pack["rows"]]
        keep = rows >= 0
        new_columns.append(np.repeat(mapping, np.diff(segment.pack["indptr"]))[keep])
        new_rows.append(rows[keep])
        values.append(segment.pack["values"][keep])
    column, row = np.concatenate(new_columns), np.concatenate(new_rows)
    order = np.argsort(column * max(len(chunks), 1) + row)
    counts = np.bincount(column, minlength=len(union))
    used = np.flatnonzero(counts)
    indptr = np.zeros(len(used) + 1, dtype=np.int64)
    np.cumsum(counts[used], out=indptr[1:])
    merged = {
        "chunks": chunks,
        "indptr": indptr,
        "rows": row[order].astype(np.int32),
        "values": np.concatenate(values)[order],
    }
    kept = [union[i] for i in used.tolist()]
    if lexical:
        merged |= Terms.pack(kept)
        merged["lengths"] = np.empty(len(chunks), dtype=np.int32)
        for segment, new in zip(segments, moves):
            keep = new >= 0
            merged["lengths"][new[keep]] = segment.pack["lengths"][keep]
        return merged
    return with_blocks({**merged, "dims": np.array(kept, dtype=np.int64)}, len(chunks))


def _bags(segments: Sequence[Segment], alive: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    chunks, moves = _order(segments, alive)
    lengths = np.empty(len(chunks), dtype=np.int64)
    for segment, new in zip(segments, moves):
        keep = new >= 0
        lengths[new[keep]] = np.diff(segment.pack["offsets"])[keep]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    merged = {"chunks": chunks, "offsets": offsets}
    for name in ("rows", "scales"):
        if name in segments[0].pack:
            first = segments[0].pack[name]
            merged[name] = np.empty((offsets[-1], *first.shape[1:]), dtype=first.dtype)
            for segment, new in zip(segments, moves):
                old = segment.pack["offsets"]
                owner = np.repeat(new, np.diff(old))
                place = np.arange(len(owner)) + np.repeat(offsets[new] - old[:-1], np.diff(old))
                keep = owner >= 0
                merged[name][place[keep]] = segment.pack[name][keep]
    return with_encodings(merged)
