"""The dense space of a snapshot, segment by segment, each in the form that its rows are kept in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from inlay.collection import arranged_rows, thin_rows
from inlay.collection.arranged_rows import is_arranged
from inlay.collection.row_graphs import EF, candidates, graph_of, has_graph
from inlay.collection.segment import Segment
from inlay.collection.thin_rows import Texts, is_thin
from inlay.collection.views import Found, View
from inlay.errors import InlayError, SpaceMismatch
from inlay.types import Encoder, Space

__all__ = ["DenseView"]

SAMPLED = 512  # rows that stand for the collection: their deviation is right to about 3 %
AHEAD = 64  # rows that a walk among rows that are made again keeps, at least
MADE = 256  # allowed rows up to which all are made, and the answer is exact


class DenseView(View):
    """A dense space: an exact scan; a graph where there are many rows (`row_graphs`), or where they are made again
    (`thin_rows`); or whatever was measured to be best (`arranged_rows`).
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

    @property
    def arranged(self) -> bool:
        """Whether some rows are kept as a configuration says."""
        return any(is_arranged(segment.pack) for segment in self.segments)

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
            self._parts[i] = thin_rows.index_of(self.segments[i].pack, *self._lent)
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

    def _arranged(self, i: int) -> Any:
        if self._parts[i] is None:
            self._parts[i] = arranged_rows.index_of(self.segments[i].pack)
        return self._parts[i]

    def _ranked(self, i: int, query: np.ndarray, k: int, allow: np.ndarray | None) -> Found:
        """The nearest of a segment that is kept as a configuration says."""
        ids, scores = self._arranged(i).search(query[0], k, allow=allow)
        return self.segments[i].chunks[ids], scores

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
            elif is_arranged(segment.pack):
                found.append(self._ranked(i, query, few, allow))
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
        if is_arranged(self.segments[i].pack):
            every = np.arange(self.segments[i].rows) if allow is None else np.flatnonzero(allow)
            near, best = self._few(self._arranged(i).decoded(every), None).search(query, min(k, len(every)))
            return self.segments[i].chunks[every[best[0]]], near[0]
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
        return self._stored(i, rows)

    def scores(self, query: np.ndarray, chunks: np.ndarray) -> np.ndarray:
        """Score of each given chunk, float32; NaN where it has no vector."""
        query = self._query(query)
        out = np.full(len(chunks), np.nan, dtype=np.float32)
        for i, segment in enumerate(self.segments):
            places, rows = segment.rows_of(chunks)
            if len(places) and is_thin(segment.pack):
                out[places] = self._thin(i).rows.fetch(rows.tolist()) @ query[0]
            elif len(places) and is_arranged(segment.pack):
                scores, ids = self._few(self._arranged(i).decoded(rows), None).search(query, len(rows))
                out[places[ids[0]]] = scores[0]
            elif len(places):
                pack = segment.pack
                scales = pack["scales"][rows] if "scales" in pack else None
                scores, ids = self._few(pack.rows("rows", rows), scales).search(query, len(rows))
                out[places[ids[0]]] = scores[0]
        return out

    def rows(self, chunks: np.ndarray) -> np.ndarray:
        """Rows of chunks that have one, as stored, float32 [n, dim]; no others are read."""
        out = np.zeros((len(chunks), self.space.dim), dtype=np.float32)
        for i, segment in enumerate(self.segments):
            places, own = segment.rows_of(chunks)
            out[places] = self._stored(i, own)
        return out

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """All alive chunks and their rows as stored, or made again, as float32 [n, dim]."""
        chunks, rows = [], []
        for i, (segment, dead) in enumerate(zip(self.segments, self._dead)):
            keep = np.ones(segment.rows, dtype=bool) if dead is None else ~dead
            if is_thin(segment.pack):
                part = self._thin(i).rows.fetch(np.flatnonzero(keep).tolist())
            else:
                part = self._stored(i, np.flatnonzero(keep))
            chunks.append(segment.chunks[keep])
            rows.append(part)
        if not chunks:
            return np.empty(0, dtype=np.int64), np.empty((0, self.space.dim), dtype=np.float32)
        order = np.argsort(np.concatenate(chunks))
        return np.concatenate(chunks)[order], np.concatenate(rows)[order]

    def _stored(self, i: int, rows: np.ndarray) -> np.ndarray:
        """Some rows of segment i as they are kept, float32 [n, dim]."""
        pack = self.segments[i].pack
        if is_arranged(pack):
            return self._arranged(i).decoded(rows)  # type: ignore[no-any-return]
        part: np.ndarray = pack.rows("rows", rows).astype(np.float32)
        return part * pack["scales"][rows][:, None] if "scales" in pack else part
