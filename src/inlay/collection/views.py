"""What a snapshot can be asked, space by space: rows of several segments seen as one.

A view answers in chunk numbers. Rows of deleted chunks are masked; statistics of the lexical space are those of the
rows that are alive, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inlay.collection.posting_blocks import blocks_of
from inlay.collection.row_graphs import EF, candidates, graph_of, has_graph
from inlay.collection.segment import Segment
from inlay.collection.thin_rows import Texts, index_of, is_thin
from inlay.errors import InlayError, SpaceMismatch
from inlay.types import Encoder, Space, Sparse

__all__ = ["DenseView", "Found", "LexicalView", "SparseView", "View"]

Found = tuple[np.ndarray, np.ndarray]  # chunk numbers int64 and scores float32, best first
QUERY_CUT, HEAP_FACTOR = 12, 0.7  # what of a query's lists is read, and how careful blocks are skipped
FEW = 0.1  # share of a segment that a filter must leave for its blocks to be worth reading
SAMPLED = 512  # rows that stand for the collection: their deviation is right to about 3 %
AHEAD = 64  # rows that a walk among rows that are made again keeps, at least
MADE = 256  # allowed rows up to which all are made, and the answer is exact


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


class DenseView(View):
    """A dense space, segment by segment: an exact scan; a graph where there are many rows (`row_graphs`), or where
    they are made again (`thin_rows`).
    """

    def __init__(self, segments: Sequence[Segment], tombstones: np.ndarray, space: Space) -> None:
        super().__init__(segments, tombstones, space)
        self._sample: np.ndarray | None = None
        self._graphs: dict[int, Any] = {}
        self._lent: tuple[Encoder, Texts] | None = None

    @property
    def thin(self) -> bool:
        """Whether some vectors are not kept."""
        return any(is_thin(segment.pack) for segment in self.segments)

    def lend(self, encoder: Encoder | None, texts: Texts) -> None:
        """What vectors that are not kept are made with."""
        self._lent = None if encoder is None else (encoder, texts)

    def _thin(self, i: int) -> Any:
        if self._lent is None:
            raise InlayError(
                "the vectors of this collection are made again from its texts, and the encoder is not at hand: "
                "open it with encoder= that made them"
            )
        if self._parts[i] is None:
            self._parts[i] = index_of(self.segments[i].pack, *self._lent)
        return self._parts[i]

    def _walk(self, i: int, query: np.ndarray, k: int, allow: np.ndarray | None) -> Found:
        """About the k nearest of a segment without vectors."""
        index, chunks = self._thin(i), self.segments[i].chunks
        rows = None if allow is None else np.flatnonzero(allow)
        if rows is not None and len(rows) <= max(k, MADE):
            return self._best([(chunks[rows], index.rows.fetch(rows.tolist()) @ query[0])] if len(rows) else [], k)
        near = index.search_rows(query[0], k, ef=max(k, AHEAD), allow=allow)
        hit = near.ids[0] >= 0
        return chunks[near.ids[0][hit]], near.scores[0][hit]

    def _index(self, i: int) -> Any:
        from inlay.indexes.flat import Flat

        if self._parts[i] is None:
            pack = self.segments[i].pack
            scales = pack["scales"] if "scales" in pack else None
            self._parts[i] = Flat.over(pack["rows"], scales, metric=self.space.metric)
        return self._parts[i]

    def _query(self, query: np.ndarray) -> np.ndarray:
        query = np.ascontiguousarray(query, dtype=np.float32).reshape(1, -1)
        if query.shape[1] != self.space.dim:
            raise SpaceMismatch(
                f"the query has {query.shape[1]} dimensions, the collection's vectors have {self.space.dim}"
            )
        return query

    def search(self, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        """The k nearest chunks of one query vector [dim]."""
        query = self._query(query)
        found = []
        for i, segment in enumerate(self.segments):
            allow, few = self._allow(i, allowed), min(k, segment.rows)
            if is_thin(segment.pack):
                found.append(self._walk(i, query, few, allow))
            elif (graph := self._graph(i)) is not None:
                found.append(self._along(i, graph, query, few, allow))
            else:
                found.append(self._scan(i, query, few, allow))
        return self._best(found, k)

    def scan(self, query: np.ndarray, k: int) -> Found:
        """What `search` finds where it misses nothing: every row that is kept is read."""
        query, every = self._query(query), range(len(self.segments))
        return self._best([self._scan(i, query, min(k, self.segments[i].rows), self._allow(i, None)) for i in every], k)

    def graphed(self) -> list[bool]:
        """For each segment, whether a graph is walked."""
        return [self._graph(i) is not None for i in range(len(self.segments))]

    def _graph(self, i: int) -> Any:
        """The graph of segment i, or None."""
        if i not in self._graphs:
            pack = self.segments[i].pack
            self._graphs[i] = graph_of(pack) if has_graph(pack) else None
        return self._graphs[i]

    def _along(self, i: int, graph: Any, query: np.ndarray, k: int, allow: np.ndarray | None) -> Found:
        """About the k nearest of a segment with a graph: found by codes, scored by rows."""
        pack, chunks, ef = self.segments[i].pack, self.segments[i].chunks, max(EF, 2 * k)
        if "scales" in pack:  # then codes are the rows
            near = graph.search(query, k, ef=ef, allow=allow)
            hit = near.ids[0] >= 0
            return chunks[near.ids[0][hit]], near.scores[0][hit]
        wanted = min(len(chunks), candidates(k))
        found = (
            graph.near(query, wanted, ef=ef) if allow is None else graph.search(query, wanted, ef=ef, allow=allow).ids
        )
        rows = np.sort(found[0][found[0] >= 0])
        if not len(rows):
            return chunks[rows], np.empty(0, dtype=np.float32)
        scores, best = self._few(pack.rows("rows", rows), None).search(query, min(k, len(rows)))
        return chunks[rows[best[0]]], scores[0]

    def _few(self, rows: np.ndarray, scales: np.ndarray | None) -> Any:
        from inlay.indexes.flat import Flat

        return Flat.over(np.ascontiguousarray(rows), scales, metric=self.space.metric)

    def _scan(self, i: int, query: np.ndarray, k: int, allow: np.ndarray | None) -> Found:
        scores, rows = self._index(i).search(query, k, allow=allow)
        hit = rows[0] >= 0
        return self.segments[i].chunks[rows[0][hit]], scores[0][hit]

    def background(self, query: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation of the query's scores over the collection, from a sample of its rows."""
        query = self._query(query)[0]
        if self._sample is None:
            parts = [self._some(i) for i in range(len(self.segments))]
            self._sample = np.concatenate(parts) if parts else np.empty((0, self.space.dim), dtype=np.float32)
        if not len(self._sample):
            return 0.0, 0.0
        scores = self._sample @ query
        if self.space.metric == "l2":
            scores = 2 * scores - np.einsum("ij,ij->i", self._sample, self._sample) - query @ query
        return float(scores.mean(dtype=np.float64)), float(scores.std(dtype=np.float64))

    def _some(self, i: int) -> np.ndarray:
        """Segment i's part of the sample, float32: alive rows at even distances."""
        segment, rows = self.segments[i], self._evenly(i, SAMPLED)
        if is_thin(segment.pack):
            return self._thin(i).decoded(rows)  # type: ignore[no-any-return]
        return _stored(segment, rows)

    def scores(self, query: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        """Score of each given chunk, float32; NaN where it has no vector."""
        query = self._query(query)
        out = np.full(len(chunks), np.nan, dtype=np.float32)
        for i, segment in enumerate(self.segments):
            places, rows = segment.rows_of(chunks)
            if len(places) and is_thin(segment.pack):
                out[places] = self._thin(i).rows.fetch(rows.tolist()) @ query[0]
            elif len(places):
                pack = segment.pack
                scales = pack["scales"][rows] if "scales" in pack else None
                scores, ids = self._few(pack.rows("rows", rows), scales).search(query, len(rows))
                out[places[ids[0]]] = scores[0]
        return out

    def rows(self, chunks: np.ndarray) -> np.ndarray:
        """Rows of chunks that have one, as stored, float32 [n, dim]; no others are read."""
        out = np.zeros((len(chunks), self.space.dim), dtype=np.float32)
        for segment in self.segments:
            places, own = segment.rows_of(chunks)
            out[places] = _stored(segment, own)
        return out

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """All alive chunks and their rows as stored, or made again, as float32 [n, dim]."""
        chunks, rows = [], []
        for i, (segment, dead) in enumerate(zip(self.segments, self._dead)):
            keep = np.ones(segment.rows, dtype=bool) if dead is None else ~dead
            if is_thin(segment.pack):
                part = self._thin(i).rows.fetch(np.flatnonzero(keep).tolist())
            else:
                part = segment.pack["rows"][keep].astype(np.float32)
                if "scales" in segment.pack:
                    part *= segment.pack["scales"][keep][:, None]
            chunks.append(segment.chunks[keep])
            rows.append(part)
        if not chunks:
            return np.empty(0, dtype=np.int64), np.empty((0, self.space.dim), dtype=np.float32)
        order = np.argsort(np.concatenate(chunks))
        return np.concatenate(chunks)[order], np.concatenate(rows)[order]


def _stored(segment: Segment, rows: np.ndarray) -> np.ndarray:
    """Some rows of a dense segment as they are stored, float32."""
    part: np.ndarray = segment.pack.rows("rows", rows).astype(np.float32)
    return part * segment.pack["scales"][rows][:, None] if "scales" in segment.pack else part


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
