"""What a snapshot can be asked, space by space: rows of several segments seen as one.

A view answers in chunk numbers. Rows of deleted chunks are masked; statistics of the lexical space are those of the
rows that are alive, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inlay.collection.posting_blocks import blocks_of
from inlay.collection.segment import Segment
from inlay.types import Space, Sparse

__all__ = ["Found", "LexicalView", "SparseView", "View"]

Found = tuple[np.ndarray, np.ndarray]  # chunk numbers int64 and scores float32, best first
QUERY_CUT, HEAP_FACTOR = 12, 0.7  # what of a query's lists is read, and how careful blocks are skipped
FEW = 0.1  # share of a segment that a filter must leave for its blocks to be worth reading


class View:
    """What views of all kinds share: segments, which of their rows are alive, the best of several lists."""

    def __init__(self, segments: Sequence[Segment], tombstones: np.ndarray, space: Space) -> None:
        self.segments, self.space = list(segments), space
        self._dead: list[np.ndarray | None] = []
        self._parts: list[Any] = [None] * len(self.segments)
        for segment in self.segments:
            _, rows = segment.rows_of(tombstones)
            dead = None
            if len(rows):
                dead = np.zeros(segment.rows, dtype=bool)
                dead[rows] = True
            self._dead.append(dead)
        self.alive = sum(s.rows - (0 if d is None else int(d.sum())) for s, d in zip(self.segments, self._dead))

    def __len__(self) -> int:
        return self.alive

    def _allow(self, i: int, allowed: np.ndarray | None) -> np.ndarray | None:
        """Mask over the rows of segment i, or None where every row may answer."""
        dead = self._dead[i]
        if allowed is None:
            return None if dead is None else ~dead
        mask = np.zeros(self.segments[i].rows, dtype=bool)
        mask[self.segments[i].rows_of(allowed)[1]] = True
        if dead is not None:
            mask &= ~dead
        return mask

    def covered(self) -> np.ndarray:
        """Chunks that have a row and are alive, ascending."""
        parts = [s.chunks if d is None else s.chunks[~d] for s, d in zip(self.segments, self._dead)]
        return np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)

    def _evenly(self, i: int, sampled: int) -> np.ndarray:
        """Segment i's part of a sample of alive rows, at even distances, int64."""
        dead = self._dead[i]
        alive = np.arange(self.segments[i].rows) if dead is None else np.flatnonzero(~dead)
        few = min(len(alive), -(-sampled * len(alive) // max(self.alive, 1)))
        rows: np.ndarray = alive[np.arange(few) * len(alive) // max(few, 1)]
        return rows

    def _best(self, found: list[Found], k: int) -> Found:
        if not found:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        chunks = np.concatenate([chunks for chunks, _ in found])
        scores = np.concatenate([scores for _, scores in found])
        order = np.lexsort((chunks, -scores))[:k]
        return chunks[order], scores[order]


class _PostingsView(View):
    def _postings(self, i: int) -> Any:
        from inlay.indexes.inverted import Postings

        if self._parts[i] is None:
            segment = self.segments[i]
            self._parts[i] = Postings(
                segment.pack["indptr"],
                segment.pack.unverified("rows"),
                segment.pack.unverified("values"),
                segment.rows,
                weigh=self._weigh(i),
            )
        return self._parts[i]

    def _weigh(self, i: int) -> Any:
        return None

    def _touch(self, i: int, columns: np.ndarray) -> None:
        indptr = self.segments[i].pack["indptr"]
        for column in columns.tolist():
            for name in ("rows", "values"):
                self.segments[i].pack.touch(name, int(indptr[column]), int(indptr[column + 1]))

    def _top(self, i: int, columns: np.ndarray, weights: np.ndarray, k: int, allowed: np.ndarray | None) -> Found:
        self._touch(i, columns)
        k = min(k, self.segments[i].rows)
        scores, rows = self._postings(i).top(columns, weights, k, allow=self._allow(i, allowed))
        return self.segments[i].chunks[rows], scores


class SparseView(_PostingsView):
    """A learnt sparse space: inner products over shared dimensions; exact in all but large segments."""

    def __init__(self, segments: Sequence[Segment], tombstones: np.ndarray, space: Space) -> None:
        super().__init__(segments, tombstones, space)
        self._blocks: dict[int, Any] = {}

    def search(self, query: Sparse, k: int, allowed: np.ndarray | None = None) -> Found:
        """The best k chunks of one query (a `Sparse` of one row)."""
        found = []
        for i in range(len(self.segments)):
            columns, weights = self._known(i, query)
            if len(columns):
                found.append(
                    self._skipping(i, columns, weights, k, allowed) or self._top(i, columns, weights, k, allowed)
                )
        return self._best(found, k)

    def _skipping(
        self, i: int, columns: np.ndarray, weights: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> Found | None:
        """Nearly the best of segment i by its blocks; None where it has none, or where they are no help."""
        segment = self.segments[i]
        if i not in self._blocks:
            self._blocks[i] = blocks_of(segment.pack)
        if self._blocks[i] is None or weights.min() < 0:
            return None
        allow = self._allow(i, allowed)
        if allow is not None and int(allow.sum()) < FEW * segment.rows:
            return None  # blocks are skipped by the best of all rows, whether they are allowed or not
        query = Sparse(np.array([0, len(columns)]), columns, weights, (1, len(segment.pack["dims"])))
        scores, rows = self._blocks[i].search(query, k, allow=allow, query_cut=QUERY_CUT, heap_factor=HEAP_FACTOR)
        rows, scores = rows[0][rows[0] >= 0], scores[0][rows[0] >= 0]
        return (segment.chunks[rows], scores) if len(rows) == k else None

    def scores(self, query: Sparse, chunks: np.ndarray) -> np.ndarray:
        """Score of each given chunk, float32; NaN where it has no row."""
        out = np.full(len(chunks), np.nan, dtype=np.float32)
        for i, segment in enumerate(self.segments):
            places, rows = segment.rows_of(chunks)
            if not len(places):
                continue
            columns, weights = self._known(i, query)
            self._touch(i, columns)
            indptr, lists = segment.pack["indptr"], segment.pack.unverified("rows")
            values, scores = segment.pack.unverified("values"), np.zeros(len(rows), dtype=np.float32)
            for column, weight in zip(columns.tolist(), weights):
                low, high = int(indptr[column]), int(indptr[column + 1])
                at = np.minimum(np.searchsorted(lists[low:high], rows), high - low - 1) + low
                scores += np.where(lists[at] == rows, values[at] * weight, np.float32(0))
            out[places] = scores
        return out

    def _known(self, i: int, query: Sparse) -> tuple[np.ndarray, np.ndarray]:
        """Columns of segment i that a query has, and its weights there, float32."""
        dims = self.segments[i].pack["dims"]
        if not len(dims):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        place = np.minimum(np.searchsorted(dims, query.indices), len(dims) - 1)
        known = dims[place] == query.indices
        return place[known], query.data[known].astype(np.float32)


class LexicalView(_PostingsView):
    """The lexical space: BM25 over raw term counts, with the statistics of the alive rows of all segments."""

    def __init__(self, segments: Sequence[Segment], tombstones: np.ndarray, space: Space, k1: float, b: float) -> None:
        super().__init__(segments, tombstones, space)
        self._k1, self._b = k1, b
        total = 0
        for segment, dead in zip(self.segments, self._dead):
            lengths = segment.pack["lengths"]
            total += int(lengths.sum() if dead is None else lengths[~dead].sum())
        self.average_length = total / self.alive if self.alive else 1.0

    def _weigh(self, i: int) -> Any:
        from inlay.encoders.bm25 import saturation

        lengths = self.segments[i].pack["lengths"]

        def weigh(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
            return saturation(counts, lengths[rows], max(self.average_length, 1e-9), self._k1, self._b)

        return weigh

    def search(self, terms: Sequence[str], k: int, allowed: np.ndarray | None = None) -> Found:
        """The best k chunks for the terms of one query (repeated terms count as often as they stand)."""
        from inlay.encoders.bm25 import idf

        distinct = list(dict.fromkeys(terms))
        if not distinct:
            return self._best([], k)
        columns = np.array([[s.terms.find(term) for term in distinct] for s in self.segments], dtype=np.int64)
        columns = columns.reshape(len(self.segments), len(distinct))
        frequency = np.zeros(len(distinct), dtype=np.int64)
        for i, (segment, dead) in enumerate(zip(self.segments, self._dead)):
            indptr = segment.pack["indptr"]
            for t, column in enumerate(columns[i].tolist()):
                if column >= 0:
                    start, stop = int(indptr[column]), int(indptr[column + 1])
                    frequency[t] += stop - start
                    if dead is not None:
                        segment.pack.touch("rows", start, stop)
                        frequency[t] -= int(dead[segment.pack.unverified("rows")[start:stop]].sum())
        times = np.array([sum(t == term for t in terms) for term in distinct])
        weights = (idf(self.alive, frequency) * times).astype(np.float32)
        found = []
        for i in range(len(self.segments)):
            known = columns[i] >= 0
            if known.any():
                found.append(self._top(i, columns[i][known], weights[known], k, allowed))
        return self._best(found, k)
